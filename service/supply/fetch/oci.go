// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	oci "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/llama-orch/llama-orch/service/task"
)

const (
	maxManifest = 4 << 20 // the distribution specification's limit for a manifest
	ociLogin    = "log in with docker or podman, and set DOCKER_CONFIG to the folder of the config.json that holds the login"
)

// resolveOCI reads the manifest that a ref names, and finds the model among its layers.
func (f *Fetcher) resolveOCI(ctx context.Context, ref Ref) ([]remote, error) {
	repo, base, err := f.registry(ref)
	if err != nil {
		return nil, err
	}
	described, body, err := repo.FetchReference(ctx, ref.oci.Reference)
	if err != nil {
		return nil, ofOCI(err, ref)
	}
	defer func() { _ = body.Close() }()
	if described.MediaType == ocispec.MediaTypeImageIndex || strings.HasSuffix(described.MediaType, "manifest.list.v2+json") {
		return nil, task.Errorf(task.InvalidParams, "%s is a list of images: name one of them by its digest, as oci:REGISTRY/REPOSITORY@sha256:HEX", ref.Shown())
	}
	if described.Size > maxManifest {
		return nil, task.Errorf(task.InvalidParams, "the manifest of %s has %d bytes, more than any has: choose another image", ref.Shown(), described.Size)
	}
	text, err := content.ReadAll(body, described) // checks size and digest
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, task.Errorf(task.InvalidParams, "the manifest of %s cannot be read: choose another image", ref.Shown()).Because(err)
	}
	layers, err := chooseLayers(ref, m)
	if err != nil {
		return nil, err
	}
	var all []remote
	for _, layer := range layers {
		digest, err := parseDigest(layer.Digest.String())
		if err != nil || digest == "" || layer.Size < 0 {
			return nil, task.Errorf(task.InvalidParams, "%s names a layer by another digest than SHA-256, or of no size: choose another image", ref.Shown())
		}
		r := remote{name: layerName(ref, layer), where: "oci:" + ref.oci.Registry + "/" + ref.oci.Repository + "@" + digest, size: layer.Size, digest: digest, fixed: true}
		r = f.overHTTP(repo.Client, base+"/v2/"+ref.oci.Repository+"/blobs/"+digest, r, nil, ociLogin)
		open := r.open
		r.open = func(ctx context.Context, from int64, validator string) (*stream, error) {
			return open(auth.AppendRepositoryScope(ctx, repo.Reference, auth.ActionPull), from, validator)
		}
		all = append(all, r)
	}
	return all, nil
}

// registry returns a client for the ref's repository, and the base URL of its registry.
func (f *Fetcher) registry(ref Ref) (*oci.Repository, string, error) {
	repo := &oci.Repository{Reference: ref.oci, MaxMetadataBytes: maxManifest}
	base := "https://" + ref.oci.Host()
	if mirror, ok := f.s.Endpoints.OCI[ref.oci.Registry]; ok {
		at, err := endpointURL(mirror)
		if err != nil {
			return nil, "", err
		}
		base = at.Scheme + "://" + at.Host
		repo.Reference.Registry, repo.PlainHTTP = at.Host, at.Scheme == "http"
	}
	logins, err := f.logins()
	if err != nil {
		return nil, "", err
	}
	repo.Client = &auth.Client{Client: f.s.Client, Cache: auth.NewCache(), Credential: logins}
	return repo, base, nil
}

// logins reads the logins in docker's file. The file may name helper programs; these are not started.
func (f *Fetcher) logins() (auth.CredentialFunc, error) {
	dir := f.s.Getenv("DOCKER_CONFIG")
	if dir == "" {
		return nil, nil
	}
	file := filepath.Join(dir, "config.json")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	store, err := credentials.NewFileStore(file)
	if err != nil {
		return nil, task.Errorf(task.Internal, "the logins in DOCKER_CONFIG cannot be read: correct the file, or unset the variable").Because(err)
	}
	return credentials.Credential(store), nil
}

// chooseLayers finds the model: the layers whose title or media type says gguf, or otherwise the only layer.
func chooseLayers(ref Ref, m ocispec.Manifest) ([]ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	byTitle := map[string]ocispec.Descriptor{}
	for _, layer := range m.Layers {
		title := layer.Annotations[ocispec.AnnotationTitle]
		media := strings.ToLower(layer.MediaType)
		if strings.HasSuffix(strings.ToLower(title), ".gguf") || strings.Contains(media, "gguf") || media == "application/vnd.ollama.image.model" {
			found = append(found, layer)
			byTitle[title] = layer
		}
	}
	if len(found) == 0 && len(m.Layers) == 1 {
		found = m.Layers
	}
	switch len(found) {
	case 0:
		return nil, task.Errorf(task.ModelNotFound, "%s holds no GGUF model that could be told by title or media type: choose another image", ref.Shown())
	case 1:
		return found, nil
	}
	names, err := partsOf(found[0].Annotations[ocispec.AnnotationTitle])
	if err == nil && len(names) == len(found) && len(byTitle) == len(found) {
		var parts []ocispec.Descriptor
		for _, name := range names {
			if layer, ok := byTitle[name]; ok {
				parts = append(parts, layer)
			}
		}
		if len(parts) == len(found) {
			return parts, nil
		}
	}
	var titles []string
	for _, layer := range found {
		title := layer.Annotations[ocispec.AnnotationTitle]
		fill(&title, layer.Digest.String())
		titles = append(titles, title)
	}
	return nil, task.Errorf(task.InvalidParams, "%s holds several models: choose an image with one. It has %s", ref.Shown(), listed(titles))
}

func layerName(ref Ref, layer ocispec.Descriptor) string {
	name := layer.Annotations[ocispec.AnnotationTitle]
	if name == "" {
		name = ref.oci.Repository + ".gguf"
	}
	return localName(name)
}

// ofOCI turns an answer of the registry into a typed error. If there was no answer, the error stays one of the network.
func ofOCI(err error, ref Ref) error {
	if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return status(answer.StatusCode, "", ref.Shown(), ociLogin)
	}
	if errors.Is(err, errdef.ErrNotFound) {
		return status(http.StatusNotFound, "", ref.Shown(), ociLogin)
	}
	return err
}
