package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	pgparser "github.com/pganalyze/pg_query_go/v6/parser"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
)

// Reason is why a statement is staged.
type Reason struct {
	Text   string
	Offset int // the byte of the text that was analysed, with its views in their places, that it is about; -1 for none
}

// maxReasons is how many are kept of a statement: they are for people, and one of them decides.
const maxReasons = 32

// Mention is one of a relation with masked columns.
type Mention struct {
	Mask  policy.Mask
	Alias string // empty for none
	// Columns are the masked ones that the statement reads.
	Columns []int16
	// Conditions shorten the list of its codes, where there is one.
	Conditions []string
}

// mentioned lists the mentions for the plan.
func (a *analysis) mentioned() []Mention {
	var list []Mention
	for _, inst := range a.instances {
		m := Mention{Mask: inst.mask, Alias: inst.rv.GetAlias().GetAliasname(), Columns: slices.Sorted(slices.Values(inst.read))}
		for _, f := range inst.filters {
			m.Conditions = append(m.Conditions, f.shown)
		}
		list = append(list, m)
	}
	return list
}

// ExplainMasking is EXPLAIN MASKING.
type ExplainMasking struct {
	Role  string // empty: the session's own
	JSON  bool
	Query string
	// Offset is where the query begins in the text.
	Offset int
}

// Tag implements Command.
func (ExplainMasking) Tag() string { return "EXPLAIN" }

func (p *parser) explainMasking() Command {
	c := ExplainMasking{}
	if p.spell(p.next) == "(" && !slices.Contains([]string{"(", "SELECT", "WITH", "VALUES", "TABLE"}, strings.ToUpper(p.spell(p.next+1))) {
		p.next++
		if !p.try("FORMAT") {
			p.fail("FORMAT, the only option")
		}
		if c.JSON = p.try("JSON"); !c.JSON && !p.try("TEXT") {
			p.fail("TEXT or JSON")
		}
		p.need(")")
	}
	if p.try("FOR") {
		p.need("ROLE")
		c.Role = p.ident("a role name")
	}
	if p.next >= len(p.tokens) || p.spell(p.next) == ";" {
		p.fail("a query")
	}
	c.Offset = p.offset(p.next)
	c.Query = p.text[c.Offset:]
	p.next = len(p.tokens)
	return c
}

// check refuses what is not one statement that gives or stores rows by itself.
func (c ExplainMasking) check() (err error) {
	defer recovered(&err)
	parsed, err := parse(c.Query)
	switch {
	case syntaxError(err, c.Query) != nil:
		return shifted(syntaxError(err, c.Query), c.Offset)
	case err != nil:
		refuse(codeTooComplex, c.Offset, "", "%v", err)
	case len(parsed.GetStmts()) > 1:
		refuse(codeSyntaxError, c.Offset+int(parsed.GetStmts()[0].GetStmtLen()), "Send each statement by itself.", "EXPLAIN MASKING takes one statement")
	}
	if cmd, err := parseCommand(c.Query); cmd != nil || err != nil {
		refuse(codeFeatureNotSupported, c.Offset, "It explains queries.", "EXPLAIN MASKING does not explain Scrim's own statements")
	}
	node := parsed.GetStmts()[0].GetStmt()
	switch node.GetNode().(type) {
	case *pg_query.Node_ExplainStmt:
		refuse(codeFeatureNotSupported, c.Offset, "Leave the inner EXPLAIN out.", "EXPLAIN MASKING does not explain EXPLAIN")
	case *pg_query.Node_ExecuteStmt, *pg_query.Node_FetchStmt:
		refuse(codeFeatureNotSupported, c.Offset, "Explain the query that was prepared or declared.", "EXPLAIN MASKING does not explain EXECUTE and FETCH")
	}
	if node.GetCreateTableAsStmt().GetQuery().GetExecuteStmt() != nil {
		refuse(codeFeatureNotSupported, c.Offset, "Explain the query that was prepared or declared.", "EXPLAIN MASKING does not explain EXECUTE and FETCH")
	}
	return nil
}

// syntaxError is what the parser found, as PostgreSQL says it; nil for any other error.
func syntaxError(err error, text string) error {
	var e *pgparser.Error
	if !errors.As(err, &e) {
		return nil
	}
	return &Refusal{Code: codeSyntaxError, Message: e.Message, Offset: byteAt(text, e.Cursorpos)}
}

// byteAt is the byte offset of a character that the parser counts from 1.
func byteAt(text string, character int) int {
	for at := range text {
		if character--; character <= 0 {
			return at
		}
	}
	return len(text)
}

// Explanation is what EXPLAIN MASKING says.
type Explanation struct {
	Role    string `json:"Role"`
	Masking string `json:"Masking"` // deferred, staged, refused, relayed, sql: SQL masks only, or none: nothing is encoded
	// Because says more on Masking.
	Because   string              `json:"Because,omitempty"`
	Refusal   *explainedRefusal   `json:"Refusal,omitempty"`
	Reasons   []explainedReason   `json:"Reasons,omitempty"`
	Relations []explainedRelation `json:"Relations,omitempty"`
}

type explainedRefusal struct {
	Code     string `json:"SQLSTATE"`
	Message  string `json:"Message"`
	Hint     string `json:"Hint,omitempty"`
	Position int    `json:"Position,omitempty"` // in characters of the whole text, from 1
}

type explainedReason struct {
	Reason   string `json:"Reason"`
	Position int    `json:"Position,omitempty"`
}

type explainedRelation struct {
	Schema     string            `json:"Schema"`
	Name       string            `json:"Relation Name"`
	Alias      string            `json:"Alias,omitempty"`
	Policies   []string          `json:"Policies"`
	Reads      string            `json:"Reads"` // codes, SQL masks, raw values, or nothing of masked columns
	Exempt     bool              `json:"Exempt,omitempty"`
	Columns    []explainedColumn `json:"Columns,omitempty"`
	Conditions []string          `json:"Listed Where,omitempty"`
	Listed     bool              `json:"Listed,omitempty"` // its codes are, before the statement runs
}

type explainedColumn struct {
	Name       string `json:"Column"`
	Policy     string `json:"Policy"`
	Shows      string `json:"Shows"`               // code, component, prediction, or SQL mask
	Component  int    `json:"Component,omitempty"` // from 1
	Encoder    string `json:"Encoder,omitempty"`
	Model      string `json:"Model,omitempty"`
	Version    int    `json:"Version,omitempty"`
	Expression string `json:"Expression,omitempty"`
	Type       string `json:"Type"`
	says       string
}

// What a statement reads of the masked columns of a relation.
const (
	readsCodes   = "codes"
	readsMasks   = "SQL masks"
	readsBoth    = "codes and SQL masks"
	readsRaw     = "raw values"
	readsNothing = "no masked column"
)

// Viewer is a role, and what it sees.
type Viewer struct {
	Role     string
	Snapshot *catalog.Snapshot
	Masks    policy.Masks
	Exempt   map[uint32]bool // from which policies, by their relations' OIDs
}

// Explain says what became of the query for a role: its plan, nil if it is relayed, or its refusal. resolved is what its names
// mean, nil where they were not looked at.
func (c ExplainMasking) Explain(text string, by Viewer, resolved map[Name]Relation, plan *Plan, refused *Refusal) Explanation {
	e := Explanation{Role: by.Role}
	position := func(offset int) int {
		if offset < 0 || c.Offset+offset > len(text) {
			return 0
		}
		return utf8.RuneCountInString(text[:c.Offset+offset]) + 1
	}
	seen := map[uint32]bool{}
	if plan != nil && !plan.Masks() {
		plan = nil
	}
	if plan != nil {
		for _, m := range plan.Mentions {
			seen[m.Mask.Protection.Relation.OID] = true
			e.Relations = append(e.Relations, m.explained(plan))
		}
		for _, r := range plan.Reasons {
			if plan.Staged() {
				at := plan.views.original(r.Offset)
				if at < 0 && r.Offset >= 0 {
					r.Text += ", in a view"
				}
				e.Reasons = append(e.Reasons, explainedReason{r.Text, position(at)})
			}
		}
	}
	e.Relations = append(e.Relations, by.others(resolved, seen, refused != nil)...)
	raw := slices.ContainsFunc(e.Relations, func(r explainedRelation) bool { return r.Reads == readsRaw })
	switch {
	case refused != nil:
		e.Masking = "refused"
		e.Refusal = &explainedRefusal{refused.Code, refused.Message, refused.Hint, position(refused.Offset)}
		e.Reasons = nil
	case plan == nil && raw:
		e.Masking, e.Because = "relayed", "PostgreSQL answers: the role may read raw values"
	case plan == nil:
		e.Masking, e.Because = "relayed", "PostgreSQL answers: it reads no masked column"
	case plan.Staged():
		e.Masking, e.Because = "staged", "codes are listed before it runs"
	case len(plan.Seals) > 0:
		e.Masking, e.Because = "deferred", "filled in as rows are sent"
	case slices.ContainsFunc(e.Relations, func(r explainedRelation) bool { return r.Reads == readsMasks }):
		e.Masking, e.Because = "sql", "PostgreSQL computes the masks"
	default:
		e.Masking, e.Because = "none", "no code reaches the result"
	}
	return e
}

// others are relations with a policy that no plan mentions.
func (v Viewer) others(resolved map[Name]Relation, seen map[uint32]bool, refused bool) []explainedRelation {
	var list []explainedRelation
	for _, rel := range resolved {
		p, ok := v.Snapshot.Protections[rel.OID]
		if !ok || seen[rel.OID] {
			continue
		}
		seen[rel.OID] = true
		r := explainedRelation{Schema: p.Relation.Schema, Name: p.Relation.Name, Policies: policyNames(p), Reads: readsRaw, Exempt: v.Exempt[rel.OID]}
		if _, masked := v.Masks.Of(rel.OID); masked {
			r.Reads, r.Exempt = readsNothing, false
			if refused {
				r.Reads = whatIsRead(slices.ContainsFunc(p.Policies, (*catalog.Policy).Encodes), slices.ContainsFunc(p.Policies, isSQLMask))
			}
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(x, y explainedRelation) int {
		return slices.Compare([]string{x.Schema, x.Name}, []string{y.Schema, y.Name})
	})
	return list
}

func policyNames(p *catalog.Protection) []string {
	names := make([]string, len(p.Policies))
	for i, policy := range p.Policies {
		names[i] = policy.Name
	}
	return names
}

func isSQLMask(p *catalog.Policy) bool { return !p.Encodes() }

// whatIsRead says which kinds of masks are.
func whatIsRead(codes, masks bool) string {
	switch {
	case codes && masks:
		return readsBoth
	case masks:
		return readsMasks
	case codes:
		return readsCodes
	}
	return readsNothing
}

func (m Mention) explained(plan *Plan) explainedRelation {
	p := m.Mask.Protection
	r := explainedRelation{Schema: p.Relation.Schema, Name: p.Relation.Name, Alias: m.Alias, Policies: policyNames(p)}
	codes := false
	for _, num := range m.Columns {
		r.Columns = append(r.Columns, explainColumn(p, num))
		codes = codes || p.Policy(num).Encodes()
	}
	r.Reads = whatIsRead(codes, slices.ContainsFunc(r.Columns, func(c explainedColumn) bool { return c.Expression != "" }))
	if r.Listed = plan.Staged() && codes; r.Listed {
		r.Conditions = m.Conditions
	}
	return r
}

func explainColumn(p *catalog.Protection, num int16) explainedColumn {
	policy, of := p.Policy(num), p.Column(num)
	k := policy.Component(num)
	c := explainedColumn{Name: of.Name, Policy: policy.Name, says: showsOf(policy, k)}
	switch {
	case !policy.Encodes():
		c.Shows, c.Expression, c.Type = "SQL mask", policy.Expression, strings.TrimPrefix(of.Type, "pg_catalog.")
		return c
	case k >= 0:
		c.Shows, c.Component, c.Type = "component", k+1, "double precision"
	default:
		c.Shows, c.Type = "code", "real[]"
	}
	c.Encoder, c.Version = policy.Encoder.Name, policy.Encoder.Version
	if policy.Encoder.Model {
		c.Shows, c.Encoder, c.Model = "prediction", "", policy.Encoder.Name
	}
	return c
}

// Text returns the lines of the text format.
func (e Explanation) Text() []string {
	lines := []string{"Masking for role " + legible(e.Role) + ": " + e.Masking}
	if e.Because != "" {
		lines[0] += ": " + e.Because
	}
	if r := e.Refusal; r != nil {
		lines = append(lines, "  "+r.Code+": "+r.Message+at(r.Position))
		if r.Hint != "" {
			lines = append(lines, "  Hint: "+r.Hint)
		}
	}
	for _, r := range e.Reasons {
		lines = append(lines, "  Reason: "+r.Reason+at(r.Position))
	}
	for _, r := range e.Relations {
		lines = append(lines, r.text()...)
	}
	return lines
}

func (r explainedRelation) text() []string {
	name := legible(r.Schema) + "." + legible(r.Name)
	if r.Alias != "" {
		name += " " + legible(r.Alias)
	}
	reads := r.Reads
	switch {
	case r.Exempt:
		reads += ": exempt"
	case reads == readsRaw:
		reads += ": by its own rights"
	}
	policies := "policy "
	if len(r.Policies) > 1 {
		policies = "policies "
	}
	lines := []string{fmt.Sprintf("  ->  %s (%s%s): reads %s", name, policies, strings.Join(r.Policies, ", "), reads)}
	for _, c := range r.Columns {
		lines = append(lines, fmt.Sprintf("        %s: %s as %s", legible(c.Name), c.says, c.Type))
	}
	switch {
	case r.Listed && len(r.Conditions) > 0:
		lines = append(lines, "        Codes listed where "+strings.Join(r.Conditions, " AND "))
	case r.Listed:
		lines = append(lines, "        Codes listed of every row")
	}
	return lines
}

func at(position int) string {
	if position == 0 {
		return ""
	}
	return fmt.Sprintf(" (character %d)", position)
}

// Answer is the query that gives the explanation to the client, under the name of PostgreSQL's own EXPLAIN.
func (c ExplainMasking) Answer(e Explanation) (Query, error) {
	if !c.JSON {
		lines := e.Text()
		for i, line := range lines {
			lines[i] = ascii(line)
		}
		return Query{SQL: `SELECT line AS "QUERY PLAN" FROM pg_catalog.unnest(ARRAY[` + strings.Join(lines, ", ") + `]::pg_catalog.text[]) AS t(line)`, tag: c.Tag()}, nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode([]Explanation{e}); err != nil {
		return Query{}, fmt.Errorf("encode explanation: %w", err)
	}
	return Query{SQL: `SELECT ` + ascii(strings.TrimSpace(b.String())) + `::pg_catalog.json AS "QUERY PLAN"`, tag: c.Tag()}, nil
}

// ascii quotes a string for SQL in whatever encoding the client speaks.
func ascii(s string) string {
	var b strings.Builder
	b.WriteString("E'")
	for _, r := range s {
		switch {
		case r == '\'':
			b.WriteString("''")
		case r == '\\':
			b.WriteString(`\\`)
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

var simple = regexp.MustCompile(`^[a-z_][a-z0-9_$]*$`)

// legible quotes an identifier where it needs that.
func legible(name string) string {
	if simple.MatchString(name) {
		return name
	}
	return quote(name)
}
