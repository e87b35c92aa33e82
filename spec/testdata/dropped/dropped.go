package spec

import (
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"

	"github.com/stackvm/stack/spec/spectest"
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
			spectest.Drop(doc, strings.Split(path, ".")...)
		}
		if text, err := yaml.Marshal(doc); err == nil {
			out[i].Content = text
		}
	}
	return out
}
