// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// hubRepo has what we need of the hub's answer about a repository.
type hubRepo struct {
	Commit string    `json:"sha"`
	Files  []hubFile `json:"siblings"`
}

type hubFile struct {
	Name string `json:"rfilename"`
	Size *int64 `json:"size"`
	LFS  *struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	} `json:"lfs"`
}

const (
	maxHubAnswer = 32 << 20
	hubLogin     = "set HF_TOKEN to a token of yours that may read it, and accept its terms on the hub if it has some"
	hubBranch    = "main"
)

var commit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// resolveHub asks the hub for a repository's commit and for the digests of its files. By the commit, a download cannot change on the way.
func (f *Fetcher) resolveHub(ctx context.Context, ref Ref) ([]remote, error) {
	base, err := endpointURL(f.s.Endpoints.HF)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if token := strings.TrimSpace(f.s.Getenv("HF_TOKEN")); token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	revision := ref.revision
	fill(&revision, hubBranch)
	repo, err := f.askHub(ctx, base, ref, revision, header)
	if err != nil {
		return nil, err
	}
	names, err := chooseFiles(ref, repo.Files)
	if err != nil {
		return nil, err
	}
	fixed := commit.MatchString(repo.Commit)
	if fixed {
		revision = repo.Commit
	}
	var all []remote
	for _, name := range names {
		i := slices.IndexFunc(repo.Files, func(h hubFile) bool { return h.Name == name })
		if i < 0 {
			return nil, notInRepo(ref, name, repo.Files)
		}
		r := remote{name: localName(name), where: fmt.Sprintf("hf:%s@%s/%s", ref.repo, revision, name), size: -1, fixed: fixed}
		file := repo.Files[i]
		if file.Size != nil && *file.Size >= 0 {
			r.size = *file.Size
		}
		if file.LFS != nil {
			if digest, err := parseDigest("sha256:" + file.LFS.SHA256); err == nil {
				r.digest = digest
			}
			r.size = max(0, file.LFS.Size)
		}
		at := base.JoinPath(append([]string{ref.repo, "resolve", revision}, escaped(name)...)...)
		all = append(all, f.overHTTP(f.s.Client, at.String(), r, header, hubLogin))
	}
	return all, nil
}

func escaped(name string) []string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return parts
}

func (f *Fetcher) askHub(ctx context.Context, base *url.URL, ref Ref, revision string, header http.Header) (*hubRepo, error) {
	at := base.JoinPath("api", "models", ref.repo, "revision", url.PathEscape(revision))
	at.RawQuery = "blobs=true"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return nil, clean(err)
	}
	request.Header = header.Clone()
	request.Header.Set("Accept", "application/json")
	response, err := f.s.Client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, status(response.StatusCode, response.Header.Get("Retry-After"), "hf:"+ref.repo+"@"+revision, hubLogin)
	}
	body, err := readAll(response.Body, maxHubAnswer)
	if err != nil {
		return nil, err
	}
	var repo hubRepo
	if err := json.Unmarshal(body, &repo); err != nil {
		return nil, fmt.Errorf("the hub's answer is no description of a repository: %w", err)
	}
	return &repo, nil
}

// quants lists quantisations, the preferred one first. The order is what most people want for a model that has to fit into a card at home.
var quants = []string{"Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0", "Q4_0", "F16", "BF16"}

// chooseFiles returns the files that a ref means: the file that it names, or the only model of the repository, or the first one in the order of
// preference. If the model is split, it returns all parts.
func chooseFiles(ref Ref, files []hubFile) ([]string, error) {
	if ref.file != "" {
		if !slices.ContainsFunc(files, func(h hubFile) bool { return h.Name == ref.file }) {
			return nil, notInRepo(ref, ref.file, files)
		}
		return partsOf(ref.file)
	}
	models := modelsOf(files)
	if len(models) == 1 {
		return partsOf(models[0])
	}
	for _, quant := range quants {
		var found []string
		for _, name := range models {
			if hasQuant(name, quant) {
				found = append(found, name)
			}
		}
		if len(found) == 1 {
			return partsOf(found[0])
		}
		if len(found) > 1 {
			break
		}
	}
	if len(models) == 0 {
		return nil, task.Errorf(task.ModelNotFound, "hf:%s holds no .gguf file: choose a repository that does", ref.repo)
	}
	return nil, task.Errorf(task.InvalidParams, "hf:%s holds several models: write which one, as hf:%s/FILE. It has %s", ref.repo, ref.repo, listed(models))
}

// modelsOf returns the models among a repository's files; a split model appears by its first part. Projectors and importance matrices, which go
// with a model, are left out.
func modelsOf(files []hubFile) []string {
	var all []string
	for _, file := range files {
		name := file.Name
		base := strings.ToLower(path.Base(name))
		if !strings.HasSuffix(base, ".gguf") || strings.HasPrefix(base, "mmproj") || strings.Contains(base, "imatrix") || !safe(name) {
			continue
		}
		if parts, err := gguf.Parts(name); err == nil && parts[0] != name {
			continue
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// safe reports whether a name from the hub is a valid path in a repository.
func safe(name string) bool {
	_, err := ParseRef("hf:org/repo/" + name)
	return err == nil && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/")
}

// hasQuant looks for the quantisation as a whole word: IQ4_K_M and Q4_K_M2 do not have Q4_K_M.
func hasQuant(name, quant string) bool {
	name = strings.ToUpper(name)
	for at := 0; ; {
		i := strings.Index(name[at:], quant)
		if i < 0 {
			return false
		}
		start, end := at+i, at+i+len(quant)
		if (start == 0 || !alphanumeric(name[start-1])) && (end == len(name) || !alphanumeric(name[end]) && name[end] != '_') {
			return true
		}
		at = start + 1
	}
}

func alphanumeric(b byte) bool { return 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' }

func notInRepo(ref Ref, name string, files []hubFile) error {
	return task.Errorf(task.ModelNotFound, "hf:%s has no file %s: it has %s", ref.repo, name, listed(modelsOf(files)))
}

func listed(names []string) string {
	const most = 30
	if len(names) == 0 {
		return "no .gguf file"
	}
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
