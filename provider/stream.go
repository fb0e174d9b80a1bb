package provider

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/slipway-platform/slipway"
)

// Pipe runs write in a goroutine and returns a reader of what it writes, for logs that are put together from several answers. Reading ends with write's error, or io.EOF if that
// is nil. Closing the reader or the end of ctx cancels write's context; reading then fails with ctx's error. The caller must close it.
func Pipe(ctx context.Context, write func(ctx context.Context, w io.Writer) error) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	// A writer waits for its reader; the end of the context ends that, too.
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		w.CloseWithError(write(ctx, w))
	}()
	return pipe{r, cancel}
}

type pipe struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (p pipe) Close() error {
	p.cancel()
	return p.PipeReader.Close()
}

// Part is one part of a log that a vendor keeps in several parts, such as the log of one job of a build.
type Part struct {
	ID    string // the same whenever Look returns this part
	Title string // written above it where there are several
	Begun bool   // it may have a log
	Ended bool   // its log grows no more
	Empty bool   // it has no log, and never will: its title alone is shown
}

// Parts reads a log that a vendor keeps in parts.
type Parts struct {
	// Look returns the parts that exist now, in the order in which they are shown, and whether the build has ended.
	Look func(ctx context.Context) (parts []Part, ended bool, err error)
	// Copy writes what a part's log holds behind its first read bytes, and returns how many bytes it wrote.
	Copy func(ctx context.Context, w io.Writer, p Part, read int64) (int64, error)
	Pace time.Duration // between two calls of Look while a log is followed
}

// Open reads the parts that have begun, one after the other. With follow, each part is read to its end before the next one begins, until the build has ended. The caller must
// close the reader.
func (p Parts) Open(ctx context.Context, follow bool) io.ReadCloser {
	return Pipe(ctx, func(ctx context.Context, w io.Writer) error {
		read, shown := map[string]int64{}, map[string]bool{}
		for {
			parts, ended, err := p.Look(ctx)
			if err != nil {
				return err
			}
			for _, part := range parts {
				if !part.Begun || shown[part.ID] {
					continue
				}
				if _, titled := read[part.ID]; !titled && len(parts) > 1 {
					if _, err := fmt.Fprintf(w, "==> %s <==\n", part.Title); err != nil {
						return err
					}
				}
				n := int64(0)
				if !part.Empty {
					if n, err = p.Copy(ctx, w, part, read[part.ID]); err != nil {
						return err
					}
				}
				read[part.ID] += n
				if follow && !ended && !part.Ended {
					break
				}
				shown[part.ID] = true
			}
			if !follow || ended {
				return nil
			}
			if err := Wait(ctx, p.Pace); err != nil {
				return err
			}
		}
	})
}

// CopyLog requests a log and copies what it holds behind its first read bytes to w. A log that does not exist (yet, or any more) is empty. It returns how many bytes it wrote.
func (c *Client) CopyLog(ctx context.Context, w io.Writer, r Request, read int64) (int64, error) {
	log, err := c.Open(ctx, r)
	if errors.Is(err, slipway.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer log.Close()
	return CopyRest(w, log, read)
}

// CopyRest copies what a log holds behind its first read bytes. A log that is shorter than that was replaced by another one, and counts as empty. A byte order mark at the
// beginning is skipped and not counted.
func CopyRest(w io.Writer, in io.Reader, read int64) (int64, error) {
	log := bufio.NewReader(in)
	if mark, _ := log.Peek(3); string(mark) == "\ufeff" {
		_, _ = log.Discard(3)
	}
	if _, err := io.CopyN(io.Discard, log, read); err == io.EOF {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return io.Copy(w, log)
}
