// Package inspect describes what is recorded in the shape of docker inspect: the
// types are docker's own, so that scripts and templates written for it work. What
// a machine has no counterpart for is left at its zero value.
//
// Its functions only convert: they read and change nothing. Environment is shown
// as docker shows it; the content of configs and secrets is not.
package inspect
