package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/postern-pop/postern/pkg/policy"
)

// validator is a record that can say what is wrong with it.
type validator interface{ Validate() error }

var errTooLong = fmt.Errorf("record longer than %d octets", MaxValue)

// decode reads a record and holds it to its own rules and to its key's name.
// Fields that this version doesn't know are an error if strict.
func decode[T validator](value []byte, name string, nameOf func(T) string, strict bool) (T, error) {
	var record, none T
	if len(value) > MaxValue {
		return none, errTooLong
	}
	d := json.NewDecoder(bytes.NewReader(value))
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(&record); err != nil {
		return none, fmt.Errorf("not readable: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return none, errors.New("not readable: something follows the record")
	}
	if got := nameOf(record); got != name {
		return none, fmt.Errorf("the record is of %q", got)
	}
	if err := record.Validate(); err != nil {
		return none, err
	}
	return record, nil
}

// encode is the opposite, with the same rules.
func encode(record validator) (string, error) {
	if err := record.Validate(); err != nil {
		return "", err
	}
	value, err := json.Marshal(record)
	if err != nil {
		return "", err
	}
	if len(value) > MaxValue {
		return "", errTooLong
	}
	return string(value), nil
}

func regionName(r Region) string          { return r.Name }
func accountName(a policy.Account) string { return a.Name }
func domainName(d policy.Domain) string   { return d.Name }
