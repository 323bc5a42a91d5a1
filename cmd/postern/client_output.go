package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/policy"
)

const shownTime = "2006-01-02 15:04 -07:00"

// reply shows an answer: as JSON, or in words and tables.
func (c *client) reply(value any, words func(io.Writer)) error {
	if c.Output == "json" {
		e := json.NewEncoder(c.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	words(w)
	return w.Flush()
}

// say shows an answer that is one sentence.
func (c *client) say(value any, format string, args ...any) error {
	return c.reply(value, func(w io.Writer) { fmt.Fprintf(w, format+"\n", args...) })
}

// row writes one line of a table. What comes from outside stays in its cell.
func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		cells[i] = clean(cell)
	}
	fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
}

// clean replaces what could move a terminal's cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

// received receives a stream to its end. What came before an error is returned
// with it.
func received[M, V any](stream grpc.ServerStreamingClient[M], view func(*M) V) ([]V, error) {
	values := []V{} // an empty list is [] in JSON
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return values, err
		}
		values = append(values, view(message))
	}
}

// moment is a time in JSON; absent when there is none.
func moment(milli int64, zone string) *time.Time {
	if milli == 0 {
		return nil
	}
	t := time.UnixMilli(milli).UTC()
	if location, err := policy.LoadZone(zone); err == nil {
		t = t.In(location)
	}
	return &t
}

func shown(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Format(shownTime)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
