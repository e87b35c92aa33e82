// Package planner compares what a project asks for with what is there, and says
// what must be done: a Plan, which is data. It touches nothing: no files, no
// network, no clock, no randomness. Equal inputs give equal plans.
package planner
