// SPDX-License-Identifier: GPL-3.0-or-later

package prompt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/fs"
)

// LO-912
func TestTexts(t *testing.T) {
	require.Equal(t, "a\nb\n", Lines("a", "b"))
	require.Empty(t, Lines())
	require.Equal(t, "a\n  b\n\nc", Dedent("\n\t\ta\n\t\t  b\n\t\n\t\tc\n\t"))
	require.Equal(t, "\ta\n  b", Dedent("\ta\n  b"))
	require.Equal(t, " a\nb", Dedent("   a\n  b"))
	require.Empty(t, Dedent(" \n\t"))

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x"), []byte("text"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "y"), []byte{0xff}, 0o600))
	root, err := fs.Open(dir, fs.Limits{})
	require.NoError(t, err)
	defer root.Close()
	text, err := File(root, "x")
	require.NoError(t, err)
	require.Equal(t, "text", text)
	_, err = File(root, "y")
	require.ErrorIs(t, err, ErrNotText)
	_, err = File(root, "../x")
	_, ok := errors.AsType[*fs.OutsideError](err)
	require.True(t, ok)
}

// Without its common indent a text has the same lines, and no indent is left that all of them have.
//
// LO-912
func TestDedentTakesTheCommonIndent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.StringMatching(`[ \t]{0,3}[ab ]{0,3}`)).Draw(t, "lines")
		got := Dedent(strings.Join(lines, "\n"))
		require.Equal(t, strings.Fields(strings.Join(lines, " ")), strings.Fields(got))
		require.Equal(t, got, Dedent(got))
	})
}

// LO-912
func TestTemplates(t *testing.T) {
	text, err := Template("Dear {{.name}},{{range .all}} {{.}}{{end}} {{join \", \" .all}} <&>", map[string]any{"name": "Ada", "all": []any{1, "b"}})
	require.NoError(t, err)
	require.Equal(t, "Dear Ada, 1 b 1, b <&>", text)
	for in, says := range map[string]string{
		"{{.naam}}": `did you mean "name"?`, "{{.name": "unclosed action", "{{none}}": "not defined",
		"{{range 100000000}}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{{end}}": "it makes more than 16777216 bytes",
	} {
		_, err := Template(in, map[string]any{"name": "Ada"})
		_, ok := errors.AsType[*TemplateError](err)
		require.True(t, ok, in)
		require.ErrorContains(t, err, says)
	}
}

func calls(ids ...string) sdk.Message {
	m := sdk.Message{Role: sdk.RoleAssistant}
	for _, id := range ids {
		m.ToolCalls = append(m.ToolCalls, sdk.Call{ID: id, Name: "f"})
	}
	return m
}

// LO-912
func TestAThreadHasAnOrder(t *testing.T) {
	system, user, assistant := sdk.RoleSystem, sdk.RoleUser, sdk.RoleAssistant
	got, err := Thread(
		[]sdk.Message{sdk.Say(user, "a"), sdk.Say(system, "s"), sdk.Say(user, "b"), calls("1", "2"), sdk.Result("2", "x"), sdk.Result("1", "y")},
		[]sdk.Message{sdk.Say(system, "t"), sdk.Say(assistant, "c"), sdk.Say(user, "d")},
	)
	require.NoError(t, err)
	require.Equal(t, []sdk.Message{
		sdk.Say(system, "s\n\nt"), sdk.Say(user, "a\n\nb"), calls("1", "2"), sdk.Result("2", "x"), sdk.Result("1", "y"), sdk.Say(assistant, "c"), sdk.Say(user, "d"),
	}, got)
	for _, c := range []struct {
		messages []sdk.Message
		index    int
		says     string
	}{
		{nil, 0, "no user's message"},
		{[]sdk.Message{sdk.Say(system, "s")}, 0, "no user's message"},
		{[]sdk.Message{sdk.Say(system, "s"), sdk.Say(assistant, "a")}, 1, "begins with a user's message"},
		{[]sdk.Message{sdk.Say(user, "a"), sdk.Result("1", "x")}, 1, "no message before it makes"},
		{[]sdk.Message{sdk.Say(user, "a"), calls("1"), sdk.Say(user, "b")}, 2, `the result of the call "1" has to come first`},
		{[]sdk.Message{sdk.Say(user, "a"), calls("1")}, 2, `the result of the call "1" is missing`},
		{[]sdk.Message{sdk.Say("robot", "a")}, 0, `no role "robot"`},
	} {
		_, err := Thread(c.messages)
		order, ok := errors.AsType[*OrderError](err)
		require.True(t, ok, c.says)
		require.Equal(t, c.index, order.Index)
		require.ErrorContains(t, err, c.says)
	}
}
