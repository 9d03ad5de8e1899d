// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	yaml "github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

const committed = "../../contracts/config-schema/config.schema.json"

// OC-CONFIG-6010
func TestCommittedSchemaIsTheGeneratedOne(t *testing.T) {
	want, err := config.Schema()
	require.NoError(t, err)
	again, err := config.Schema()
	require.NoError(t, err)
	require.Equal(t, want, again)
	got, err := os.ReadFile(committed)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "run: go run ./contracts/config-schema/gen > contracts/config-schema/config.schema.json")
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(committed)
	require.NoError(t, err)
	return s
}

// valid reports what the schema says of a file.
func valid(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	plain, err := yaml.YAMLToJSON(data)
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
	require.NoError(t, err)
	return s.Validate(value)
}

// HME-003, OC-CONFIG-6010
func TestExamplesValidate(t *testing.T) {
	s := compiled(t)
	files, err := filepath.Glob("../../examples/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 3)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, valid(t, s, data), file)
		_, err = config.Load(file, environ())
		require.NoError(t, err)
	}
	demo, err := config.Load("../../examples/haiku.yaml", environ())
	require.NoError(t, err)
	require.NoError(t, demo.Check(), "the demo needs nothing that is not in the repository")
}

// What the schema refuses, Parse refuses too.
// OC-CONFIG-6010
func TestSchemaAndParserAgree(t *testing.T) {
	s := compiled(t)
	for _, text := range []string{
		"nope: 1\n" + minimal, "pools: []\n", "pools: [{id: a}]\n", "pools: [{id: A, model: {ref: file:a}}]\n",
		"pools: [{id: a, model: {ref: file:a}, device: []}]\n", "pools: [{id: a, model: {ref: file:a}, device: gpu}]\n",
		"pools: [{id: a, model: {ref: file:a}, slots: 0}]\n", "pools: [{id: a, model: {ref: file:a}, slots: 1025}]\n", "ledger: {retain_bytes: 1000}\n" + minimal, "ledger: {retain_age: 7}\n" + minimal,
		"ledger: {keep: 7}\n" + minimal, "pools: [{id: a, model: {ref: file:a}, timeouts: {wall: 5}}]\n",
		"pools: [{id: a, model: {ref: file:a}, timeouts: {wall: \"1 hour\"}}]\n", "sampler_profiles: {\"a b\": {}}\n" + minimal,
		"auth: {optional_on_loopback: \"true\"}\n" + minimal, "pools: [{id: a, model: {ref: \"\"}}]\n",
	} {
		require.Error(t, valid(t, s, []byte(text)), text)
		_, err := config.Parse("c.yaml", []byte(text), environ())
		require.Error(t, err, text)
	}
	require.NoError(t, valid(t, s, []byte(minimal)))
	c, err := config.Parse("c.yaml", []byte("pools: [{id: a, ctx: 512, model: {ref: a}, slots: 1024, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}]\n"), environ())
	require.NoError(t, err, "engines go as far")
	require.Equal(t, 1024, c.Pools[0].Slots)
}
