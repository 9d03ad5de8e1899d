// SPDX-License-Identifier: GPL-3.0-or-later

package ledger

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Batches is the part of a ledger that has files, and batches of requests (LO-435 to LO-440). Its calls write and fail as those of the Ledger do.
//
// A task whose request names a line of a batch moves that line in the same commit: its accept makes the line fed, and its end makes of it
// what task.Line.After says. ErrEnded for the accept of a task whose line has ended, or has a task already that is another.
type Batches interface {
	KeepFile(ctx context.Context, f task.File) error
	// DropFile forgets a file. ErrUnknown; ErrLive for one that a batch reads which has not ended.
	DropFile(ctx context.Context, id string) error
	File(ctx context.Context, id string) (task.File, bool, error)
	// Files returns a page of the files, and of the batches whose results are files. What came or ended in one millisecond is in any order, but always
	// the same. ErrUnknown for an id in f that there is not.
	Files(ctx context.Context, f task.FileFilter) ([]task.Listed, error)
	// Uses reports whether an artifact is a file's, or that of a batch that has not ended, or has its requests without a file.
	Uses(ctx context.Context, artifact string) (bool, error)

	// KeepBatch records a batch as it is now, and adds lines to it. Lines that it has stay as they are. ErrUnknown for a new batch whose file is not
	// there.
	KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error
	// EndLine records how a line ended without its task. A line that has completed or failed stays as it is. ErrUnknown.
	EndLine(ctx context.Context, l task.Line) error
	// EndLines records a batch as it is now, and ends all of its lines that wait.
	EndLines(ctx context.Context, b task.BatchRecord, as task.LineState) error
	// Batch returns a batch. While it has not ended, its counts are those of this moment.
	Batch(ctx context.Context, id string) (task.BatchRecord, bool, error)
	// Batches returns those that f takes, with counts as Batch has them. ErrUnknown for an id in f that there is not.
	Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error)
	// Lines returns the next lines of a batch behind a number, in their order.
	Lines(ctx context.Context, batch string, f task.LineFilter) ([]task.Line, error)

	// EraseLines does what Delete does for the tasks of a batch's lines in these states.
	EraseLines(ctx context.Context, batch string, states []task.LineState, at time.Time) error
	// DropBatch does that for all lines, and forgets them and the batch. ErrUnknown, ErrLive.
	DropBatch(ctx context.Context, id string, at time.Time) error
}
