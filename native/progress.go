package native

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// meter shows how far one step is. The zero value shows nothing.
type meter struct {
	bar   *progressbar.ProgressBar
	total int64
}

// step tells w that something begins: with a bar of total bytes if w is a terminal and total is known, else a line.
func step(w io.Writer, what string, total int64) meter {
	if w == nil {
		return meter{}
	}
	f, ok := w.(*os.File)
	if total == 0 || !ok || !term.IsTerminal(int(f.Fd())) {
		size := ""
		if total > 0 {
			size = fmt.Sprintf(" (%d MB)", (total+500_000)/1_000_000)
		}
		fmt.Fprintln(w, what+size)
		return meter{}
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(24), progressbar.OptionThrottle(50*time.Millisecond),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }))
	return meter{bar, total}
}

// set never reaches the total: only done says that a step has ended.
func (m meter) set(n int64) {
	if m.bar != nil {
		_ = m.bar.Set64(min(n, m.total-1)) // a bar that cannot be drawn is no reason to fail
	}
}

func (m meter) done() {
	if m.bar != nil {
		_ = m.bar.Finish()
	}
}

// watch polls size until the returned function is called.
func (m meter) watch(size func() int64) (stop func()) {
	if m.bar == nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			case <-time.After(100 * time.Millisecond):
				m.set(size())
			}
		}
	}()
	return func() { close(quit); <-ended }
}
