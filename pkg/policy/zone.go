package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Layouts that people write times in, the date first (ISO 8601). With an offset
// the time is an instant and the zone only matters for display.
var (
	localLayouts  = []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"}
	offsetLayouts = []string{time.RFC3339, "2006-01-02 15:04 Z07:00", "2006-01-02 15:04:05 Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z07:00"}
)

const (
	offsetLayout = "2006-01-02 15:04 -07:00"
	maxTimeText  = 64
)

// LoadZone finds a time zone by its IANA name. Names that mean the machine's
// own zone are refused: an event's times must not depend on where they were
// typed.
func LoadZone(name string) (*time.Location, error) {
	if name == "" || name == "Local" || len(name) > MaxZone {
		return nil, fmt.Errorf("time zone %s: expected an IANA name such as Europe/London or UTC", quote(name))
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %s is not known: expected an IANA name such as Europe/London or UTC", quote(name))
	}
	return zone, nil
}

// ParseTime reads "2026-11-23 18:00" as a time of day in the zone, and
// "2026-11-23 18:00 +01:00" or RFC 3339 as an instant whatever the zone. A time
// that the zone's clocks skip, or show twice, is an error that says what to
// write instead. The answer's location is the zone.
func ParseTime(text string, zone *time.Location) (time.Time, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxTimeText {
		return time.Time{}, fmt.Errorf("time %s: expected 2026-11-23 18:00", quote(text))
	}
	for _, layout := range offsetLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.In(zone), nil
		}
	}
	for _, layout := range localLayouts {
		if wall, err := time.Parse(layout, text); err == nil {
			return inZone(wall, zone)
		}
	}
	return time.Time{}, fmt.Errorf("time %s: expected 2026-11-23 18:00, with an offset such as +01:00 if you like", quote(text))
}

func inZone(wall time.Time, zone *time.Location) (time.Time, error) {
	instants := Instants(wall, zone)
	shown := wall.Format("2006-01-02 15:04")
	switch len(instants) {
	case 1:
		return instants[0], nil
	case 0:
		guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
		return time.Time{}, fmt.Errorf("there is no %s in %s: the clocks are put forward then; the first time after it is %s",
			shown, zone, gapEnd(guess).In(zone).Format(offsetLayout))
	}
	options := make([]string, len(instants))
	for i, t := range instants {
		options[i] = t.Format(offsetLayout)
	}
	return time.Time{}, fmt.Errorf("%s comes twice in %s: the clocks are put back then; write %s",
		shown, zone, strings.Join(options, " or "))
}

// Instants are the instants, in order, at which the zone's clocks show wall
// (whose own location is ignored): one nearly always, none when clocks are put
// forward over it, two when they are put back over it.
func Instants(wall time.Time, zone *time.Location) []time.Time {
	utc := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, time.UTC)
	guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	var instants []time.Time
	for _, near := range neighbours(guess) {
		_, offset := near.Zone()
		t := utc.Add(-time.Duration(offset) * time.Second).In(zone)
		if _, shown := t.Zone(); shown == offset && !slices.ContainsFunc(instants, t.Equal) {
			instants = append(instants, t)
		}
	}
	slices.SortFunc(instants, time.Time.Compare)
	return instants
}

// neighbours are an instant of the zone's period around t and one of each
// period beside it: every offset that clocks near t can show.
func neighbours(t time.Time) []time.Time {
	near := []time.Time{t}
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		near = append(near, start.Add(-time.Nanosecond))
	}
	if !end.IsZero() {
		near = append(near, end)
	}
	return near
}

// gapEnd is the first instant after the change of clocks that skipped a time
// near t, which is less than a day away from it.
func gapEnd(t time.Time) time.Time {
	start, end := t.ZoneBounds()
	if start.IsZero() || (!end.IsZero() && end.Sub(t) < t.Sub(start)) {
		return end
	}
	return start
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7E {
			return false
		}
	}
	return true
}

func oneLine(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}
