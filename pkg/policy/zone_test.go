package policy

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests' zones are the same on every machine

	"pgregory.net/rapid"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestParseTime(t *testing.T) {
	for _, c := range []struct{ text, zone, want string }{
		{"2026-11-23 18:00", "UTC", "2026-11-23T18:00:00Z"},
		{"2026-11-23 18:00", "Africa/Johannesburg", "2026-11-23T16:00:00Z"},
		{" 2026-11-23T18:00:05 ", "Europe/London", "2026-11-23T18:00:05Z"},
		{"2026-07-01 18:00", "Europe/London", "2026-07-01T17:00:00Z"},
		{"2026-11-23 18:00 +02:00", "Europe/London", "2026-11-23T16:00:00Z"},
		{"2026-11-23T18:00:00Z", "Australia/Sydney", "2026-11-23T18:00:00Z"},
		{"2026-11-23 18:00", "Australia/Lord_Howe", "2026-11-23T07:00:00Z"},
		// Clocks go from 01:00 to 02:00 in London on 2026-03-29.
		{"2026-03-29 00:59", "Europe/London", "2026-03-29T00:59:00Z"},
		{"2026-03-29 01:30", "Europe/London", "! no 2026-03-29 01:30 in Europe/London: the clocks are put forward then; the first time after it is 2026-03-29 02:00 +01:00"},
		{"2026-03-29 02:00", "Europe/London", "2026-03-29T01:00:00Z"},
		// and from 02:00 back to 01:00 on 2026-10-25.
		{"2026-10-25 01:30", "Europe/London", "! twice in Europe/London: the clocks are put back then; write 2026-10-25 01:30 +01:00 or 2026-10-25 01:30 +00:00"},
		{"2026-10-25 01:30 +01:00", "Europe/London", "2026-10-25T00:30:00Z"},
		{"2026-10-25 01:30 +00:00", "Europe/London", "2026-10-25T01:30:00Z"},
		{"2026-10-25 00:59", "Europe/London", "2026-10-24T23:59:00Z"},
		{"2026-10-25 02:00", "Europe/London", "2026-10-25T02:00:00Z"},
		// Half an hour only, and a whole day that Samoa skipped.
		{"2026-10-04 02:15", "Australia/Lord_Howe", "! no 2026-10-04 02:15"},
		{"2011-12-30 12:00", "Pacific/Apia", "! the first time after it is 2011-12-31 00:00 +14:00"},
		{"tomorrow", "UTC", "! expected 2026-11-23 18:00"},
		{"2026-02-30 18:00", "UTC", "! expected"},
		{"2026-11-23", "UTC", "! expected"},
		{"", "UTC", "! expected"},
		{strings.Repeat("9", 1000), "UTC", "! expected"},
	} {
		got, err := ParseTime(c.text, zone(t, c.zone))
		if want, isError := strings.CutPrefix(c.want, "! "); isError {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q in %s: got %v, %v; want an error with %q", c.text, c.zone, got, err, want)
			}
		} else if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q in %s: got %v, %v; want %s", c.text, c.zone, got.UTC(), err, want)
		}
	}
}

func TestLoadZoneRefuses(t *testing.T) {
	for _, name := range []string{"", "Local", "Europe/Nowhere", "../../etc/passwd", strings.Repeat("a", 65)} {
		if z, err := LoadZone(name); err == nil {
			t.Errorf("%q: got %v", name, z)
		}
	}
}

// TestInstants: every instant is found again by what the clocks show at it, and
// all that is found shows it.
func TestInstants(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.SampledFrom([]string{"UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe",
			"Africa/Casablanca", "Pacific/Apia", "Africa/Johannesburg", "America/Sao_Paulo"}).Draw(r, "zone")
		loc := zone(t, name)
		instant := time.Unix(rapid.Int64Range(946684800, 2208988800).Draw(r, "unix"), 0).In(loc)
		if start, _ := instant.ZoneBounds(); !start.IsZero() && rapid.Bool().Draw(r, "at a change") {
			instant = start.Add(time.Duration(rapid.IntRange(-7200, 7200).Draw(r, "seconds")) * time.Second).In(loc)
		}
		const layout = "2006-01-02 15:04:05"
		wall, err := time.Parse(layout, instant.Format(layout))
		if err != nil {
			r.Fatal(err)
		}
		found := false
		all := Instants(wall, loc)
		for i, got := range all {
			found = found || got.Equal(instant)
			if got.Format(layout) != instant.Format(layout) {
				r.Fatalf("%v shows %s, not %s", got, got.Format(layout), instant.Format(layout))
			}
			if i > 0 && !got.After(all[i-1]) {
				r.Fatalf("out of order: %v", all)
			}
		}
		if !found || len(all) > 2 {
			r.Fatalf("%v isn't in %v", instant, all)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{"2026-11-23 18:00", "2026-10-25 01:30", "2026-03-29 01:30", "2026-11-23T18:00:00+25:00", "0000-01-01 00:00"} {
		f.Add(seed)
	}
	london, err := LoadZone("Europe/London")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseTime(text, london)
		if err != nil {
			if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("the error doesn't fit a line: %q", err)
			}
			return
		}
		again, err := ParseTime(got.Format(time.RFC3339), london)
		if err == nil && got.Nanosecond() == 0 && !again.Equal(got) && got.Year() > 1900 {
			t.Fatalf("%q: %v, then %v", text, got, again)
		}
	})
}
