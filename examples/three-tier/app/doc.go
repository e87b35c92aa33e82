// App is the middle tier of examples/three-tier: a page that counts its visits in
// PostgreSQL and in Redis and shows which kernel each service runs on.
//
//	/          the page
//	/api       the same as JSON
//	/healthz   200 when both stores answer
//
// "app healthcheck" asks /healthz of the server in the same container; its exit status is
// the answer. The server ends at SIGTERM, after the requests in flight.
package main
