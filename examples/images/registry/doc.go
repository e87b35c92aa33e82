// Package registry serves the images of a store by the OCI distribution protocol over
// HTTP: pulls by tag or digest, with byte ranges, and pushes, which are kept in memory
// and are gone with the handler.
//
// It starts no goroutine. Images added to the store while it serves are found by the next
// request.
package registry
