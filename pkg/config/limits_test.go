package config

import (
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	with := func(text string) string { return strings.Replace(front, "front:\n", "front:\n"+text, 1) }
	process, err := Load(write(t, "front.yaml", with("  limits:\n    connections_per_ip: 0\n    failed_logins: 5\n")))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultLimits()
	want.ConnectionsPerIP, want.FailedLogins = 0, 5
	if *process.Front.Limits != *want {
		t.Errorf("got %+v, want %+v", process.Front.Limits, want)
	}
	for text, problem := range map[string]string{
		"  limits:\n    connections: 0\n":              "front.limits.connections: found 0, expected 1 to 1000000",
		"  limits:\n    login_seconds: 5\n":            "front.limits.login_seconds: found 5, expected 0, or 10 to 3600",
		"  limits:\n    longest_delay_seconds: 60\n":   "expected 0 to 30",
		"  limits:\n    connections_per_ip: \"ten\"\n": "expected a whole number: connections of one IPv4 address",
	} {
		if _, err := Load(write(t, "front.yaml", with(text))); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLog(t *testing.T) {
	for text, problem := range map[string]string{
		"log: {addresses: clear}\n":                 "",
		"log: {addresses: hashed, key_file: key}\n": "",
		"log: {addresses: hashed}\n":                "log.key_file: found nothing, expected a file",
		"log: {addresses: clear, key_file: key}\n":  "log.key_file: found a key besides addresses: clear",
		"log: {addresses: none}\n":                  `log.addresses: found "none", expected clear or hashed`,
	} {
		_, err := Load(write(t, "front.yaml", text+front))
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
