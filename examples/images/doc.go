// Images makes OCI images from Debian packages and Go programs and serves them from a
// local registry, so that stacks can be run, and pulls tested, where there is no internet:
//
//	images build              makes all of them, once; or those named: images build nginx redis:7
//	images serve              serves them on 127.0.0.1:5000
//	images list               shows them, and what could be made
//
// Finished images, packages and lists are kept in ${XDG_CACHE_HOME:-~/.cache}/stack/images.
// No root is needed. Point stack at the registry with this in its config.yaml:
//
//	registries:
//	  docker.io:
//	    mirrors: ["http://127.0.0.1:5000"]
package main
