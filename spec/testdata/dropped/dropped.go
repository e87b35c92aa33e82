package spec

import (
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"
)

// dropAttributes takes what DROP_ATTRIBUTES names, with spaces between, out of
// the compose files before compose-go sees them. It is in no program: the
// mutation test at the module's root compiles it into this package, and has load
// call it. Places in messages stay those of the files as they are.
func dropAttributes(files []types.ConfigFile) []types.ConfigFile {
	out := slices.Clone(files)
	for i := range out {
		var doc map[string]any
		if yaml.Unmarshal(out[i].Content, &doc) != nil {
			continue // for compose-go to say
		}
		for _, path := range strings.Fields(os.Getenv("DROP_ATTRIBUTES")) {
			drop(doc, strings.Split(path, "."))
		}
		if text, err := yaml.Marshal(doc); err == nil {
			out[i].Content = text
		}
	}
	return out
}

func drop(node any, path []string) {
	switch n := node.(type) {
	case map[string]any:
		if len(path) == 1 {
			delete(n, path[0])
			return
		}
		for key, v := range n {
			if path[0] == "*" || path[0] == key {
				drop(v, path[1:])
			}
		}
	case []any:
		for _, v := range n {
			if len(path) > 1 && path[0] == "[]" {
				drop(v, path[1:])
			}
		}
	}
}
