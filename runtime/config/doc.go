// Package config is what a user has set for all projects: one config.yaml,
// validated with positions, the environment over it, and the directories in
// which everything of ours lives.
//
// The package starts no goroutine. Load reads and changes nothing; only
// RuntimeDir creates anything, a directory of its own.
package config
