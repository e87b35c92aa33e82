// Package render draws what the commands say: progress, tables and logs, in the
// forms that docker compose prints and scripts read. It decides nothing and
// starts nothing but the redraw ticker of a terminal's Progress, which Close
// ends.
package render
