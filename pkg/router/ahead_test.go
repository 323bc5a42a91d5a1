package router

import (
	"fmt"
	"slices"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestRun(t *testing.T) {
	listing := &maildrop.Listing{}
	for i := range 2000 {
		listing.Append(maildrop.UID(fmt.Sprint(i+1)), 1)
	}
	for name, c := range map[string]struct {
		read  []int // numbers, one after the other
		first int   // what is expected behind the last of them, from here
		last  int   // to there; 0: nothing
	}{
		"one alone":                {read: []int{7}},
		"two":                      {read: []int{1, 2}, first: 3, last: 10},
		"more, so more":            {read: []int{4, 5, 6, 7}, first: 8, last: 31},
		"downwards":                {read: []int{2000, 1999}, first: 1998, last: 1991},
		"downwards to the end":     {read: []int{4, 3}, first: 2, last: 1},
		"up to the end":            {read: []int{1996, 1997}, first: 1998, last: 2000},
		"the last":                 {read: []int{1999, 2000}},
		"turned round":             {read: []int{5, 6, 7, 6}, first: 5, last: 1},
		"a gap ends it":            {read: []int{5, 6, 7, 9}},
		"the same again":           {read: []int{5, 6, 6}},
		"after a gap":              {read: []int{5, 6, 90, 91}, first: 92, last: 99},
		"never more than the most": {read: upTo(100), first: 101, last: 100 + aheadMost},
	} {
		t.Run(name, func(t *testing.T) {
			var r run
			var got []maildrop.UID
			for _, number := range c.read {
				got = r.expect(listing, maildrop.UID(fmt.Sprint(number)))
			}
			var want []maildrop.UID
			step := 1
			if c.last < c.first {
				step = -1
			}
			for n := c.first; c.last > 0 && n != c.last+step; n += step {
				want = append(want, maildrop.UID(fmt.Sprint(n)))
			}
			if !slices.Equal(got, want) {
				t.Errorf("expects %v, want %v", got, want)
			}
		})
	}
	var r run
	if got := r.expect(listing, "elsewhere"); got != nil {
		t.Errorf("a message that isn't there: expects %v", got)
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	return all
}
