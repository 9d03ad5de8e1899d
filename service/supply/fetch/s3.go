// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const s3Login = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION) to what may read it"

func (f *Fetcher) resolveS3(ctx context.Context, ref Ref) ([]remote, error) {
	store, err := f.store()
	if err != nil {
		return nil, err
	}
	dir, name := path.Split(ref.file)
	names, err := partsOf(name)
	if err != nil {
		return nil, err
	}
	var all []remote
	for _, name := range names {
		key := dir + name
		where := "s3:" + ref.repo + "/" + key
		info, err := store.StatObject(ctx, ref.repo, key, minio.StatObjectOptions{})
		if err != nil {
			return nil, ofS3(err, where)
		}
		all = append(all, remote{name: localName(name), where: where, size: info.Size, open: func(ctx context.Context, from int64, tag string) (*stream, error) {
			return openS3(ctx, store, ref.repo, key, where, from, tag)
		}})
	}
	return all, nil
}

// store returns a client for the endpoint. It tries each request once; the job tries again.
func (f *Fetcher) store() (*minio.Core, error) {
	at, err := endpointURL(f.s.Endpoints.S3)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupPath
	if strings.HasSuffix(at.Hostname(), ".amazonaws.com") {
		lookup = minio.BucketLookupAuto
	}
	return minio.NewCore(at.Host, &minio.Options{
		Creds: credentials.NewStaticV4(
			strings.TrimSpace(f.s.Getenv("AWS_ACCESS_KEY_ID")), strings.TrimSpace(f.s.Getenv("AWS_SECRET_ACCESS_KEY")), strings.TrimSpace(f.s.Getenv("AWS_SESSION_TOKEN"))),
		Secure: at.Scheme == "https", Transport: f.s.Client.Transport, Region: f.s.Getenv("AWS_REGION"), BucketLookup: lookup, MaxRetries: 1,
	})
}

// openS3 reads the object, if it still has the ETag tag.
func openS3(ctx context.Context, store *minio.Core, bucket, key, where string, from int64, tag string) (*stream, error) {
	var o minio.GetObjectOptions
	if from > 0 {
		if err := o.SetRange(from, 0); err != nil {
			return nil, err
		}
		if tag != "" {
			if err := o.SetMatchETag(tag); err != nil {
				return nil, err
			}
		}
	}
	body, info, header, err := store.GetObject(ctx, bucket, key, o)
	if err != nil {
		return nil, ofS3(err, where)
	}
	s := &stream{body: body, from: from, size: info.Size, validator: info.ETag}
	if from > 0 {
		m := contentRange.FindStringSubmatch(header.Get("Content-Range"))
		switch {
		case m == nil:
			s.from = 0 // the server ignores ranges
		case m[1] != fmt.Sprint(from):
			_ = body.Close()
			return nil, fmt.Errorf("the source sends from byte %s on, which nobody asked for", m[1])
		default:
			s.size = -1 // info has the size of the range, not of the object
			if m[3] != "*" {
				s.size, _ = strconv.ParseInt(m[3], 10, 64) // 18 digits fit
			}
		}
		if tag != "" && info.ETag != "" && info.ETag != tag {
			_ = body.Close()
			return nil, errStale
		}
	}
	return s, nil
}

// ofS3 turns an answer of the store into a typed error. If there was no answer, the error stays one of the network.
func ofS3(err error, where string) error {
	answer := minio.ToErrorResponse(err)
	switch answer.StatusCode {
	case 0:
		return err
	case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable:
		return errStale
	}
	return status(answer.StatusCode, "", where, s3Login)
}
