// Package registry reads manifests and blobs from OCI registries: mirrors first,
// with plain HTTP, extra authorities and proxies where the configuration says
// so, retried where that can help, resumed where a connection broke, and every
// byte checked against its digest.
//
// Tokens and credential schemes are go-containerregistry's. Credentials come
// with the Client, live in its memory only, and are never sent to a mirror of
// another host.
//
// A Client owns the connections it keeps; Close ends the idle ones. The package
// starts no goroutine but those of net/http.
package registry
