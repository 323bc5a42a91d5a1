package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong with a file.
type Problem struct { //nolint:errname // a line of a report, and an error besides
	File            string
	Line            int    // 1-based
	Key             string // "front.pop3s.listen"; empty: the whole file
	Found, Expected string
}

// Error is the problem as one line.
func (p Problem) Error() string {
	key := p.Key
	if key != "" {
		key += ": "
	}
	return fmt.Sprintf("%s:%d: %sfound %s, expected %s", p.File, p.Line, key, p.Found, p.Expected)
}

// Problems is everything that is wrong with a file and the files it names, in
// the order of its lines, this file first.
type Problems []Problem //nolint:errname // a report, and an error besides

// Error is the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// decoder fills structs from one file's nodes and collects what is wrong.
type decoder struct {
	file     string
	problems Problems // of this file
	others   Problems // of the files it names
}

func (d *decoder) bad(line int, key, found, expected string) {
	d.problems = append(d.problems, Problem{d.file, line, key, found, expected})
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	regionType      = reflect.TypeFor[Region]()
	pathType        = reflect.TypeFor[Path]()
)

// value decodes one node into a settable value; want is in the words of the
// key's tag.
func (d *decoder) value(node *yaml.Node, key string, into reflect.Value, want string) {
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		d.bad(node.Line, key, "an anchor or alias", "a plain value")
		return
	}
	if into.Kind() == reflect.Pointer {
		fresh := reflect.New(into.Type().Elem())
		d.value(node, key, fresh.Elem(), want)
		into.Set(fresh)
		return
	}
	switch {
	case into.Type() == regionType && isText(node):
		d.regionFile(node, key, into)
	case reflect.PointerTo(into.Type()).Implements(textUnmarshaler):
		d.text(node, key, into, want)
	case into.Kind() == reflect.Struct:
		d.mapping(node, key, into, want)
	case into.Kind() == reflect.Slice:
		d.list(node, key, into, want)
	default:
		d.scalar(node, key, into, want)
	}
}

// mapping decodes a struct: every key known, none twice, none missing.
func (d *decoder) mapping(node *yaml.Node, key string, into reflect.Value, want string) {
	if node.Kind != yaml.MappingNode {
		d.bad(node.Line, key, found(node), "a mapping: "+want)
		return
	}
	if with, ok := into.Addr().Interface().(defaulted); ok {
		with.setDefaults()
	}
	before, lines := len(d.problems), map[string]int{}
	fields := fieldsOf(into.Type())
	for i := 0; i+1 < len(node.Content); i += 2 {
		d.field(node.Content[i], node.Content[i+1], key, into, fields, lines)
	}
	for _, f := range fields {
		if _, there := lines[f.name]; !there && f.required {
			d.bad(node.Line, join(key, f.name), "nothing", f.want)
		}
	}
	checked, ok := into.Addr().Interface().(section)
	if !ok || len(d.problems) > before {
		return
	}
	checked.Validate(func(name, found, expected string) {
		line, there := lines[name]
		if !there {
			line = node.Line
		}
		d.bad(line, join(key, name), found, expected)
	})
}

// field decodes one entry of a mapping.
func (d *decoder) field(name, node *yaml.Node, key string, into reflect.Value, fields []field, lines map[string]int) {
	path := join(key, name.Value)
	if first, twice := lines[name.Value]; twice {
		d.bad(name.Line, path, "the key again", fmt.Sprintf("it once (it is in line %d)", first))
		return
	}
	for _, f := range fields {
		if f.name == name.Value && isText(name) {
			lines[f.name] = name.Line
			if node.Line > name.Line && node.Kind == yaml.MappingNode {
				// A missing key of a block is best shown at the block's own key.
				node.Line = name.Line
			}
			d.value(node, path, into.Field(f.index), f.want)
			return
		}
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	d.bad(name.Line, path, "an unknown key", "one of "+strings.Join(names, ", "))
}

func (d *decoder) list(node *yaml.Node, key string, into reflect.Value, want string) {
	if node.Kind != yaml.SequenceNode {
		d.bad(node.Line, key, found(node), want)
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		d.value(item, key+"["+strconv.Itoa(i)+"]", into.Index(i), want)
	}
}

func (d *decoder) text(node *yaml.Node, key string, into reflect.Value, want string) {
	if !isText(node) || into.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(node.Value)) != nil {
		d.bad(node.Line, key, found(node), want)
	}
}

func (d *decoder) scalar(node *yaml.Node, key string, into reflect.Value, want string) {
	switch into.Kind() {
	case reflect.String:
		if !isText(node) || node.Value == "" {
			d.bad(node.Line, key, found(node), want)
			return
		}
		into.SetString(node.Value)
		if into.Type() == pathType {
			into.SetString(string(Path(node.Value).resolve(d.file)))
		}
	case reflect.Int:
		n, err := strconv.Atoi(node.Value)
		if node.Kind != yaml.ScalarNode || node.Tag != "!!int" || err != nil {
			d.bad(node.Line, key, found(node), "a whole number: "+want)
			return
		}
		into.SetInt(int64(n))
	case reflect.Bool:
		if node.Kind != yaml.ScalarNode || node.Tag != "!!bool" || node.Decode(into.Addr().Interface()) != nil {
			d.bad(node.Line, key, found(node), want)
		}
	default:
		d.bad(node.Line, key, found(node), want)
	}
}

// isText reports whether the node is a YAML string, quoted or not.
func isText(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag == "!!str"
}

// found says what a node is, in words. Values are cut: a file may hold a
// secret where none belongs.
func found(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a mapping"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Tag == "!!null":
		return "nothing"
	case node.Value == "":
		return "an empty text"
	}
	const longest = 60
	value := node.Value
	if len(value) > longest {
		value = value[:longest] + "…"
	}
	if node.Tag == "!!str" {
		return strconv.Quote(value)
	}
	return value
}

// field is a struct's field as its tags describe it.
type field struct {
	name, want string
	index      int
	required   bool
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		fields = append(fields, field{name, t.Field(i).Tag.Get("want"), i, options != "omitempty"})
	}
	return fields
}

func join(key, name string) string {
	if key == "" || name == "" {
		return key + name
	}
	return key + "." + name
}
