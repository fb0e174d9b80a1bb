package provider

import (
	"context"
	"io"
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
