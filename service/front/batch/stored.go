// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// What clients send is stored by its bytes, so that equal uploads are one artifact. It goes with the last file or batch that has it. An upload has its
// bytes before it has its record: that it is told where another one has taken the bytes away meanwhile, and that an upload without a record leaves
// nothing, Feeder.stored sees to.

// errTwin refuses an upload whose bytes went with an equal one.
func errTwin() error {
	return task.Errorf(task.Conflict, "an equal upload was deleted, or failed, while this one came: send it again").Retry(retryAfter)
}

// keepFile records a file of bytes that are stored. Where that fails, they are given up again.
func (f *Feeder) keepFile(ctx context.Context, name, artifact string, size int64) (task.File, error) {
	file := task.File{ID: filePrefix + f.o.NewID(), Artifact: artifact, Name: name, Bytes: size, CreatedAt: f.o.Now().UTC()}
	err := f.record(ctx, file)
	if err != nil {
		f.abandon(ctx, artifact)
	}
	return file, err
}

func (f *Feeder) record(ctx context.Context, file task.File) error {
	f.stored.Lock()
	defer f.stored.Unlock()
	if !f.o.Store.Has(file.Artifact) {
		return errTwin()
	}
	return f.unwritten(f.o.Records.KeepFile(ctx, file))
}

// abandonWithin bounds the giving up of what a client sent, who may be gone.
const abandonWithin = 10 * time.Second

// abandon gives up what a client sent that was not recorded.
func (f *Feeder) abandon(ctx context.Context, artifact string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), abandonWithin)
	defer stop()
	if err := f.release(ctx, artifact); err != nil {
		f.log.Warn("an upload that was refused is left in the store", zap.String("artifact", artifact), zap.Error(err))
	}
}

// release removes an artifact that nothing needs any more.
func (f *Feeder) release(ctx context.Context, artifact string) error {
	f.stored.Lock()
	defer f.stored.Unlock()
	used, err := f.o.Records.Uses(ctx, artifact)
	switch {
	case err != nil:
		return f.unwritten(err)
	case used || f.comes(artifact):
		return nil
	}
	return f.o.Store.Remove(artifact)
}

// comes reports whether a batch that reads an artifact is being recorded.
func (f *Feeder) comes(artifact string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.live {
		if r.artifact == artifact && !r.durable {
			return true
		}
	}
	return false
}
