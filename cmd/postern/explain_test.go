package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// TestReadmeHasEveryCode holds README's table of codes against the one that replies
// are made of, both ways.
func TestReadmeHasEveryCode(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	noError(t, err)
	var want []string
	for _, m := range maildrop.Meanings() {
		want = append(want, fmt.Sprintf("| `%s` | `[%s]` | %s | %s |", m.Reason, m.Response, m.User, m.Operator))
	}
	got := regexp.MustCompile("(?m)^\\| `[a-z-]+` \\| `\\[.*$").FindAllString(string(text), -1)
	if !slices.Equal(got, want) {
		t.Errorf("README has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExplainCode(t *testing.T) {
	var out, errs bytes.Buffer
	if code := command(t.Context(), []string{"explain", "--code", "(no-event)"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "continuity start") {
		t.Errorf("%d: %s%s", code, out.String(), errs.String())
	}
	out.Reset()
	var v codeView
	if code := command(t.Context(), []string{"explain", "--code", "lockout", "-o", "json"}, &out, &errs); code != 0 {
		t.Errorf("%d: %s", code, errs.String())
	}
	noError(t, json.Unmarshal(out.Bytes(), &v))
	if v.Code != "lockout" || v.Response != "SYS/TEMP" || v.Words == "" || v.User == "" || v.Operator == "" {
		t.Errorf("%+v", v)
	}
	if code := command(t.Context(), []string{"explain", "--code", "x"}, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "those are: other-region, ") {
		t.Errorf("%d: %s", code, errs.String())
	}
}
