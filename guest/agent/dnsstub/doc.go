// Package dnsstub is the resolver a container finds at 127.0.0.11.
//
// It listens on random ports behind a redirect in the container's network
// namespace, so the container may serve port 53 itself, and relays messages as
// they are. It caches nothing and reads no more of a message than its header and
// whether the name has one label.
//
// A query goes to the resolvers of all the container's networks at once, and the
// first that knows the name has answered. Where the container has servers of its
// own, the networks' resolvers are asked without "recursion desired", which
// means: names of the network only; what they do not know goes to the servers.
//
// Whoever is asked is asked again every 300 ms for 4 s: the resolvers live in a
// host process that may be restarted meanwhile, and nobody is to notice.
//
// A Stub owns its goroutines: one per socket and one per query, of which there
// are at most 256; Close ends them and waits.
package dnsstub
