package rewrite

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// ImportModel is CREATE MODEL, or ALTER MODEL ... ADD VERSION.
type ImportModel struct {
	Name        string
	Version     int
	Path        string // in the folder of imports
	Adds        bool   // to a model that is there
	IfNotExists bool
}

// DropModelVersion is ALTER MODEL ... DROP VERSION.
type DropModelVersion struct {
	Name    string
	Version int
}

// DropModel is DROP MODEL.
type DropModel struct {
	Name     string
	IfExists bool
	Cascade  bool // drop the masking policies that use it
}

// Tag implements Command.
func (c ImportModel) Tag() string {
	if c.Adds {
		return "ALTER MODEL"
	}
	return "CREATE MODEL"
}

// Tag implements Command.
func (DropModelVersion) Tag() string { return "ALTER MODEL" }

// Tag implements Command.
func (DropModel) Tag() string { return "DROP MODEL" }

func (p *parser) createModel() Command {
	c := ImportModel{IfNotExists: p.ifNotExists(), Version: 1}
	c.Name = p.ident("a model name")
	if p.try("VERSION") {
		c.Version = p.version()
	}
	c.Path = p.from()
	return c
}

// from reads FROM and a path.
func (p *parser) from() string {
	p.need("FROM")
	return p.quoted("the path of a file in quotes")
}

func (p *parser) alterModel() Command {
	name := p.ident("a model name")
	switch at := p.next; {
	case p.try("ADD", "VERSION"):
		return ImportModel{Name: name, Version: p.version(), Path: p.from(), Adds: true}
	case p.try("DROP", "VERSION"):
		return DropModelVersion{Name: name, Version: p.version()}
	case p.try("SET", "DEFAULT_VERSION"):
		p.need("=")
		return SetDefaultVersion{Name: name, Version: p.version(), Model: true}
	case p.try("VERSION"):
		refuse(codeFeatureNotSupported, p.offset(at), "", "aliases of versions are not supported yet")
	}
	p.fail("ADD VERSION, DROP VERSION or SET DEFAULT_VERSION")
	return nil
}

func (p *parser) dropModel() Command {
	ifExists := p.try("IF", "EXISTS")
	return DropModel{IfExists: ifExists, Name: p.ident("a model name"), Cascade: p.cascade()}
}

func (p *parser) showModelVersions() Command {
	return Query{tag: "SHOW", SQL: fmt.Sprintf(`SELECT * FROM scrim.model_versions WHERE model = %s ORDER BY version`, literal(p.ident("a model name")))}
}

// version reads the number of a version: 2, or v2.
func (p *parser) version() int {
	text := p.spell(p.next)
	if number, found := strings.CutPrefix(strings.ToLower(text), "v"); found && p.isWord() {
		if n, err := strconv.ParseInt(number, 10, 32); err == nil && n > 0 {
			p.next++
			return int(n)
		}
	}
	return p.integer(1, math.MaxInt32)
}

// usingModel reads name[.version] (inputs).
func (p *parser) usingModel(c *CreateMaskingPolicy) {
	c.Model = p.ident("a model name")
	if p.try(".") {
		c.ModelVersion = p.version()
	} else if p.next < len(p.tokens) && p.tokens[p.next].GetToken() == pg_query.Token_FCONST { // the scanner takes .2 for a fraction
		n, err := strconv.ParseInt(strings.TrimPrefix(p.spell(p.next), "."), 10, 32)
		if err != nil || n < 1 {
			p.fail("the number of a version")
		}
		c.ModelVersion = int(n)
		p.next++
	}
	c.Inputs = p.columns()
}
