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

// Pipe runs write in the background and gives what it writes, for logs that are put together from several answers. Reading ends with write's error, io.EOF when
// it has none. Closing the reader, or the end of ctx, ends the context of write; reading then fails with ctx's error.
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

// Part is one part of a log that a vendor keeps in several, such as that of one job of a build.
type Part struct {
	ID    string // the same at each look
	Title string // written above it where there are several
	Begun bool   // it may have a log
	Ended bool   // its log grows no more
	Empty bool   // it has no log, and never will: its title alone is shown
}

// Parts is a log that a vendor keeps in parts.
type Parts struct {
	// Look gives the parts that there are by now, in the order in which they are shown, and whether the build has ended.
	Look func(ctx context.Context) (parts []Part, ended bool, err error)
	// Copy writes what the log of a part holds after the bytes that were read of it before, and gives how many it wrote.
	Copy func(ctx context.Context, w io.Writer, p Part, read int64) (int64, error)
	Pace time.Duration // between two looks at a log that is followed
}

// Open reads the parts that have begun, one after the other. With follow each is followed to its end before the next one is shown, until the build has ended.
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

// CopyLog copies what the log that a request asks for holds after the bytes that were read of it before. One that is not there, or not any more, gives nothing.
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

// CopyRest copies what a log holds after the bytes that were read of it before. One that became shorter is another, and gives nothing. A byte order mark is no part of it.
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
