//go:build !linux

package sandbox

import "errors"

// become is for Linux: elsewhere no program is started through this package.
func become(Spec) error { return errors.New("there is no sandbox on this system") }

// ABI is 0: there is no Landlock.
func ABI() int { return 0 }
