package spec

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// TestExtensionSchema keeps docs/x-stack.schema.json, which editors use, at one
// with what is loaded.
func TestExtensionSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../docs/x-stack.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	service, volume := schema.Properties["services"], schema.Properties["volumes"]
	properties := func(s *jsonschema.Schema) []string {
		of := s.AdditionalProperties.(*jsonschema.Schema).Properties[extensionKey].Ref
		return sortedKeys(of.Properties)
	}
	if diff := cmp.Diff(serviceExtensions, properties(service)); diff != "" {
		t.Errorf("keys of a service (-known +schema):\n%s", diff)
	}
	if diff := cmp.Diff(volumeExtensions, properties(volume)); diff != "" {
		t.Errorf("keys of a volume (-known +schema):\n%s", diff)
	}
	for _, tt := range []struct {
		service, volume string
		ok              bool
	}{
		{"{}", "{}", true},
		{"", "", true},
		{"{machine: a, host: deny, memory: 1g, vcpus: 2, restart_unhealthy: true, kernel_args: [quiet, 'mitigations=off']}", "{size: 20g}", true},
		{"{host: allow, memory: 536870912, kernel_args: []}", "{size: 1024m}", true},
		{"{machine: ''}", "", false},
		{"{machine: 3}", "", false},
		{"{host: perhaps}", "", false},
		{"{memory: much}", "", false},
		{"{memory: [1]}", "", false},
		{"{vcpus: 0}", "", false},
		{"{vcpus: 65}", "", false},
		{"{vcpus: two}", "", false},
		{"{restart_unhealthy: 'yes'}", "", false},
		{"{kernel_args: quiet}", "", false},
		{"{kernel_args: ['a b']}", "", false},
		{"{kernel_args: [7]}", "", false},
		{"{kernel_args: ['rdinit=/bin/sh']}", "", false},
		{"{kernel_args: ['--']}", "", false},
		{"{host_docker_socket: true}", "", true},
		{"{host_docker_socket: 'yes'}", "", false},
		{"[machine]", "", false},
		{"", "{size: much}", false},
		{"", "{bytes: 3}", false},
	} {
		text := "services: {web: {image: x, volumes: ['vol:/v'], x-stack: " + tt.service + "}}\nvolumes: {vol: {x-stack: " + tt.volume + "}}\n"
		var doc any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); (err == nil) != tt.ok {
			t.Errorf("%s%s by the schema: %v", tt.service, tt.volume, err)
		}
		file := filepath.Join(t.TempDir(), "compose.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(context.Background(), Options{Files: []string{file}, ProjectName: "p"}); (err == nil) != tt.ok {
			t.Errorf("%s%s as loaded: %v", tt.service, tt.volume, err)
		}
	}
}
