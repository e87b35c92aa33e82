// Package spectest is for tests that ask what becomes of a compose file's
// attributes.
package spectest

// Drop takes what path names out of a decoded YAML document and tells whether
// anything was there. "*" is every key, "[]" every list item.
func Drop(node any, path ...string) bool {
	found := false
	switch n := node.(type) {
	case map[string]any:
		for key, v := range n {
			switch {
			case path[0] != "*" && path[0] != key:
			case len(path) == 1:
				delete(n, key)
				found = true
			default:
				found = Drop(v, path[1:]...) || found
			}
		}
	case []any:
		for _, v := range n {
			if len(path) > 1 && path[0] == "[]" {
				found = Drop(v, path[1:]...) || found
			}
		}
	}
	return found
}
