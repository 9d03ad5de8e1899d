// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"cmp"
	"context"

	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/prompt"
)

// The inputs and results of fs.*.
type (
	FileName struct {
		Path string `json:"path" jsonschema:"description=below the root\\, with slashes"`
	}
	FileText struct {
		Text string `json:"text"`
	}
	File struct {
		Path string `json:"path" jsonschema:"description=below the root\\, with slashes"`
		Text string `json:"text"`
	}
	Listing struct {
		Dir   string   `json:"dir,omitempty" jsonschema:"description=default: the root"`
		Deep  bool     `json:"deep,omitempty" jsonschema:"description=with all folders below"`
		Match string   `json:"match,omitempty" jsonschema:"description=only files whose name matches\\, such as *.go"`
		Skip  []string `json:"skip,omitempty" jsonschema:"description=names that are left out\\, with all that is below them"`
	}
	Entries struct {
		Entries []fs.Entry `json:"entries"`
	}
	Diff struct {
		Diff string `json:"diff"`
	}
	Changes struct {
		Changes []fs.Change `json:"changes"`
	}
)

// root returns the root, once the guard allows the names.
func (e *Env) root(applet string, names ...string) (*fs.Root, error) {
	if e.Root == nil {
		return nil, &NeedError{Applet: applet, What: "a root: give the folder whose files it may use"}
	}
	for _, name := range names {
		if e.Guard == nil {
			break
		}
		if err := e.Guard.Path(name); err != nil {
			return nil, err
		}
	}
	return e.Root, nil
}

func files() Catalog {
	return Catalog{
		acting(New("fs.read", "Reads a text file below the root.", func(_ context.Context, env *Env, in FileName) (FileText, error) {
			root, err := env.root("fs.read", in.Path)
			if err != nil {
				return FileText{}, err
			}
			text, err := prompt.File(root, in.Path)
			return FileText{Text: text}, err
		})),
		acting(New("fs.write", "Writes a text file below the root, whole or not at all.", func(_ context.Context, env *Env, in File) (Nothing, error) {
			root, err := env.root("fs.write", in.Path)
			if err != nil {
				return Nothing{}, err
			}
			return Nothing{}, root.Write(in.Path, []byte(in.Text))
		})),
		acting(New("fs.list", "Lists a folder below the root.", func(_ context.Context, env *Env, in Listing) (Entries, error) {
			root, err := env.root("fs.list", cmp.Or(in.Dir, "."))
			if err != nil {
				return Entries{}, err
			}
			entries, err := root.List(fs.Listing{Dir: in.Dir, Deep: in.Deep, Match: in.Match, Skip: in.Skip})
			return Entries{Entries: append([]fs.Entry{}, entries...)}, err
		})),
		acting(New("fs.patch", "Applies a unified diff below the root, whole or not at all.", func(_ context.Context, env *Env, in Diff) (Changes, error) {
			names, err := fs.Names(in.Diff)
			if err != nil {
				return Changes{}, err
			}
			root, err := env.root("fs.patch", names...)
			if err != nil {
				return Changes{}, err
			}
			changes, err := root.Patch(in.Diff)
			return Changes{Changes: changes}, err
		})),
	}
}
