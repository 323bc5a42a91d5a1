package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load reads a role file and the region file that it names. An error is
// Problems when the files could be read.
func Load(file string) (*Process, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var process Process
	if problems := decode(file, data, &process); len(problems) > 0 {
		return nil, problems
	}
	return &process, nil
}

// LoadRegion reads a region file.
func LoadRegion(file string) (*Region, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	return parseRegion(file, data)
}

// Regions reads every *.yaml of a directory as a region file, in the order of
// their names. A file is named as its region is.
func Regions(dir fs.FS) ([]Region, error) {
	files, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("no region files (*.yaml) there")
	}
	regions := make([]Region, 0, len(files))
	for _, file := range files {
		data, err := fs.ReadFile(dir, file)
		if err != nil {
			return nil, err
		}
		region, err := parseRegion(file, data)
		if err != nil {
			return nil, err
		}
		if want := strings.TrimSuffix(path.Base(file), ".yaml"); string(region.Name) != want {
			return nil, Problems{{file, 1, "name", string(region.Name), want + ", as the file is named"}}
		}
		regions = append(regions, *region)
	}
	return regions, nil
}

func parseRegion(file string, data []byte) (*Region, error) {
	var region Region
	if problems := decode(file, data, &region); len(problems) > 0 {
		return nil, problems
	}
	return &region, nil
}

// regionFile decodes the region file that a role file names.
func (d *decoder) regionFile(node *yaml.Node, key string, into reflect.Value) {
	file := string(Path(node.Value).resolve(d.file))
	data, err := readFile(file)
	if err != nil {
		d.bad(node.Line, key, "a file that can't be read ("+err.Error()+")", "the path of a region file")
		return
	}
	var region Region
	d.others = append(d.others, decode(file, data, &region)...)
	region.File = Path(file)
	into.Set(reflect.ValueOf(region))
}

// decode fills the struct that into points to.
func decode(file string, data []byte, into any) Problems {
	d := &decoder{file: file}
	reader := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	err := reader.Decode(&document)
	switch {
	case errors.Is(err, io.EOF):
		d.bad(1, "", "an empty file", "a mapping")
		return d.problems
	case err != nil:
		line, words := syntaxError(err)
		d.bad(line, "", words, "YAML")
		return d.problems
	}
	d.value(document.Content[0], "", reflect.ValueOf(into).Elem(), "keys and values")
	var second yaml.Node
	if err := reader.Decode(&second); !errors.Is(err, io.EOF) {
		d.bad(max(1, second.Line), "", "a second document", "one document")
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
	return append(d.problems, d.others...)
}

// syntaxError takes the line out of the parser's words ("yaml: line 7: …").
func syntaxError(err error) (line int, words string) {
	words = strings.TrimPrefix(err.Error(), "yaml: ")
	if n, _ := fmt.Sscanf(words, "line %d:", &line); n == 1 {
		_, words, _ = strings.Cut(words, ": ")
	}
	return max(1, line), words
}

// readFile reads a file of at most MaxFile octets.
func readFile(file string) ([]byte, error) {
	opened, err := os.Open(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	data, err := io.ReadAll(io.LimitReader(opened, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: longer than %d octets", file, MaxFile)
	}
	return data, nil
}
