package rewrite

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// Command is one of Scrim's own statements.
type Command interface {
	// Tag is the command tag that the client gets.
	Tag() string
}

// createEncoder is CREATE ENCODER.
type createEncoder struct {
	Name        string
	Table       string // as typed: PostgreSQL resolves it
	Columns     []string
	Passthrough []string
	// AllowIdentifiers lets unique columns be passed through.
	AllowIdentifiers bool
	IfNotExists      bool
	OrReplace        bool
	LatentDims       int
	Epochs           int
	BatchSize        int
	Seed             int64
	Device           string  // cpu or cuda
	MaxLeakage       float64 // 0: whatever it is
	Target           string  // a passthrough column whose prediction is compared; empty for none
}

// DropEncoder is DROP ENCODER.
type DropEncoder struct {
	Name     string
	IfExists bool
	Cascade  bool // drop the masking policies that use it, and views over its feature views
}

// CreateFeatureView is CREATE FEATURE VIEW.
type CreateFeatureView struct {
	Name        string // in scrim_runtime
	Encoder     string
	IfNotExists bool
}

// DropFeatureView is DROP FEATURE VIEW.
type DropFeatureView struct {
	Name     string
	IfExists bool
	Cascade  bool // drop views over it too
}

// SetDefaultVersion is ALTER ENCODER, or ALTER MODEL, ... SET DEFAULT_VERSION.
type SetDefaultVersion struct {
	Name    string
	Version int
	Model   bool
}

// CreateMaskingPolicy is CREATE MASKING POLICY ... ON.
type CreateMaskingPolicy struct {
	Name    string
	Table   string
	Columns []string
	Except  []string
	Encoder string
	Model   string
	// ModelVersion is 0 for whatever is the default.
	ModelVersion int
	Inputs       []string   // empty: the encoder's own features
	Present      string     // empty: the default for the number of columns
	Expression   Expression // of an SQL mask; empty: there is an encoder or a model
	Condition    Expression // by which it masks a row; empty: always
	IfNotExists  bool
	Cascade      bool // mask the copies in views too
	OrReplace    bool
}

// DropMaskingPolicy is DROP MASKING POLICY.
type DropMaskingPolicy struct {
	Name     string
	Table    string
	IfExists bool
}

// CancelTraining is CANCEL TRAINING JOB.
type CancelTraining struct{ Job int64 }

// ScheduleTraining is ALTER ENCODER ... SET SCHEDULE, and UNSET SCHEDULE without a schedule.
type ScheduleTraining struct {
	Name      string
	Schedule  string // cron or interval
	RowGrowth int64  // 0: for time only
}

// RotateKey is ALTER MASKING POLICY ... ROTATE KEY.
type RotateKey struct {
	Name  string
	Table string
}

// RenamePolicy is ALTER MASKING POLICY ... RENAME TO.
type RenamePolicy struct{ Name, Table, To string }

// EnablePolicy is ALTER MASKING POLICY ... ENABLE, or DISABLE.
type EnablePolicy struct {
	Name, Table string
	Enable      bool
}

// ExceptPolicy is ALTER MASKING POLICY ... SET EXCEPT.
type ExceptPolicy struct {
	Name, Table string
	Except      []string
}

// Query is a statement that is a query over schema scrim: SHOW, and what starts a job and gives its number.
type Query struct {
	SQL string
	// Device is what must be there for it, if that is not the CPU.
	Device string

	tag string
}

// Wait is a query that gives a training job, of which the client wants to see the end.
type Wait struct{ Query }

// Tag implements Command.
func (DropEncoder) Tag() string { return "DROP ENCODER" }

// Tag implements Command.
func (c SetDefaultVersion) Tag() string {
	if c.Model {
		return "ALTER MODEL"
	}
	return "ALTER ENCODER"
}

// Tag implements Command.
func (CreateFeatureView) Tag() string { return "CREATE FEATURE VIEW" }

// Tag implements Command.
func (DropFeatureView) Tag() string { return "DROP FEATURE VIEW" }

// Tag implements Command.
func (CreateMaskingPolicy) Tag() string { return "CREATE MASKING POLICY" }

// Tag implements Command.
func (DropMaskingPolicy) Tag() string { return "DROP MASKING POLICY" }

// Tag implements Command.
func (CancelTraining) Tag() string { return "CANCEL TRAINING JOB" }

// Tag implements Command.
func (ScheduleTraining) Tag() string { return "ALTER ENCODER" }

// Tag implements Command.
func (RotateKey) Tag() string { return "ALTER MASKING POLICY" }

// Tag implements Command.
func (RenamePolicy) Tag() string { return "ALTER MASKING POLICY" }

// Tag implements Command.
func (EnablePolicy) Tag() string { return "ALTER MASKING POLICY" }

// Tag implements Command.
func (ExceptPolicy) Tag() string { return "ALTER MASKING POLICY" }

// Tag implements Command.
func (q Query) Tag() string { return q.tag }

// Defaults of CREATE ENCODER, as sql-surface.md gives them.
const (
	defaultLatentDims = 16
	defaultEpochs     = 100
	defaultBatchSize  = 256
	defaultDevice     = "cpu"
)

type lead struct {
	words string
	parse func(*parser) Command
}

// leads are the first words of Scrim's statements, after OR REPLACE is taken out. A nil parser is a statement of the SQL
// surface that this version does not have yet.
var leads = []lead{
	{"CREATE ENCODER", (*parser).createEncoder},
	{"ALTER ENCODER", (*parser).alterEncoder},
	{"DROP ENCODER", (*parser).dropEncoder},
	{"CREATE FEATURE VIEW", (*parser).createFeatureView},
	{"DROP FEATURE VIEW", (*parser).dropFeatureView},
	{"SHOW FEATURE VIEWS", show(`SELECT * FROM scrim.feature_views ORDER BY view::text`)},
	{"CREATE MASKING POLICY", (*parser).createMaskingPolicy},
	{"DROP MASKING POLICY", (*parser).dropMaskingPolicy},
	{"ALTER MASKING POLICY", (*parser).alterMaskingPolicy},
	{"SHOW ENCODERS", show(`SELECT * FROM scrim.encoders ORDER BY name`)},
	{"SHOW MASKING POLICIES", show(`SELECT * FROM scrim.masking_policies ORDER BY relation::text, name`)},
	{"CREATE MASKING", (*parser).wantsPolicy},
	{"ALTER MASKING", (*parser).wantsPolicy},
	{"DROP MASKING", (*parser).wantsPolicy},
	{"SHOW MASKING", (*parser).wantsPolicies},
	{"SHOW VERSIONS IN ENCODER", (*parser).showVersions},
	{"TRAIN ENCODER", (*parser).trainEncoder},
	{"CANCEL TRAINING JOB", (*parser).cancelTraining},
	{"SHOW TRAINING JOBS", show(`SELECT id, encoder, state, attempt, step, epoch, epochs, loss, round(rows_per_second) AS rows_per_second, eta, version, error, requested_by, started_at, finished_at
		FROM scrim.training_jobs ORDER BY id`)},
	{"EXPLAIN MASKING", (*parser).explainMasking},
	{"ALTER TABLE", (*parser).alterTable},
	{"CREATE MODEL", (*parser).createModel},
	{"ALTER MODEL", (*parser).alterModel},
	{"DROP MODEL", (*parser).dropModel},
	{"SHOW MODELS", show(`SELECT * FROM scrim.models ORDER BY name`)},
	{"SHOW VERSIONS IN MODEL", (*parser).showModelVersions},
	{"SHOW FUNCTIONS IN MODEL", nil},
	{"CREATE DYNAMIC TABLE", nil},
	{"ALTER DYNAMIC TABLE", nil},
	{"DROP DYNAMIC TABLE", nil},
	{"SHOW DYNAMIC TABLES", nil},
	{"CREATE UNLOAD", nil},
	{"ALTER UNLOAD", nil},
	{"DROP UNLOAD", nil},
	{"SHOW UNLOADS", nil},
}

// MaybeCommand tells from the first two words whether text can be one of Scrim's statements. It is cheap, and never says
// no to one that is: it runs on every statement of every session.
func MaybeCommand(text string) bool {
	first, rest := nextWord(text)
	switch len(first) {
	case 4, 5, 6, 7: // SHOW, ALTER, CREATE, EXPLAIN, ...
	default:
		return false
	}
	first = strings.ToUpper(first)
	if !slices.ContainsFunc(leads, func(l lead) bool { return strings.HasPrefix(l.words, first+" ") }) {
		return false
	}
	second, rest := nextWord(rest)
	second = strings.ToUpper(second)
	if second == "TABLE" && !strings.Contains(strings.ToUpper(rest), "MASKING") { // PostgreSQL's ALTER TABLE
		return false
	}
	return first == "CREATE" && second == "OR" || slices.ContainsFunc(leads, func(l lead) bool {
		return l.words == first+" "+second || strings.HasPrefix(l.words, first+" "+second+" ")
	})
}

// nextWord skips white space and comments and returns the letters that follow.
func nextWord(text string) (word, rest string) {
	for {
		text = strings.TrimLeft(text, " \t\r\n\f\v;")
		switch {
		case strings.HasPrefix(text, "--"):
			_, after, found := strings.Cut(text, "\n")
			if !found {
				return "", ""
			}
			text = after
		case strings.HasPrefix(text, "/*"):
			text = skipBlockComment(text)
		default:
			end := strings.IndexFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
			if end < 0 {
				end = len(text)
			}
			return text[:end], text[end:]
		}
	}
}

// skipBlockComment returns what follows the comment that text begins with. They nest.
func skipBlockComment(text string) string {
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		switch text[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return text[i+1:]
			}
		}
	}
	return ""
}

// maxCommand bounds the length of a statement of ours.
const maxCommand = 64 << 10

// parseCommand returns nil, nil when text is not one of Scrim's statements.
func parseCommand(text string) (cmd Command, err error) {
	if len(text) > maxCommand || !MaybeCommand(text) {
		return nil, nil
	}
	scan, err := pg_query.Scan(text)
	if err != nil {
		first, rest := nextWord(text)
		second, _ := nextWord(rest)
		if strings.EqualFold(first+" "+second, "EXPLAIN MASKING") { // what follows is PostgreSQL's
			return nil, syntaxError(err, text)
		}
		return nil, nil //nolint:nilerr // PostgreSQL reports its own lexical errors better
	}
	defer recovered(&err)
	p := &parser{text: text}
	for _, t := range scan.GetTokens() {
		if t.GetToken() != pg_query.Token_SQL_COMMENT && t.GetToken() != pg_query.Token_C_COMMENT {
			p.tokens = append(p.tokens, t)
		}
	}
	for p.try(";") {
	}
	start := p.next
	for _, l := range leads {
		p.next = start
		words := strings.Fields(l.words)
		if !p.try(words[0]) {
			continue
		}
		replace := words[0] == "CREATE" && p.try("OR", "REPLACE")
		if !p.try(words[1:]...) || words[0] == "SHOW" && p.spell(p.next) == "." { // SHOW masking.level is of a setting
			continue
		}
		p.replace = replace
		if l.parse == nil || replace && l.words != "CREATE ENCODER" && !strings.HasPrefix("CREATE MASKING POLICY", l.words) {
			refuse(codeFeatureNotSupported, p.offset(start), "", "%s is not supported yet", p.spelled(start))
		}
		if cmd = l.parse(p); cmd != nil { // else it is PostgreSQL's
			p.end()
			return cmd, nil
		}
	}
	return nil, nil
}

// parser reads one statement of ours from tokens of PostgreSQL's scanner.
type parser struct {
	text   string
	tokens []*pg_query.ScanToken
	next   int
	// replace means that OR REPLACE stood behind CREATE.
	replace bool
}

func (p *parser) spell(i int) string {
	if i >= len(p.tokens) {
		return ""
	}
	return p.text[p.tokens[i].GetStart():p.tokens[i].GetEnd()]
}

// spelled returns the words from token i up to here, in capitals.
func (p *parser) spelled(i int) string {
	words := make([]string, 0, p.next-i)
	for ; i < p.next; i++ {
		words = append(words, strings.ToUpper(p.spell(i)))
	}
	return strings.Join(words, " ")
}

func (p *parser) offset(i int) int {
	if i < len(p.tokens) {
		return int(p.tokens[i].GetStart())
	}
	return len(p.text)
}

// fail refuses the token at hand, in PostgreSQL's words.
func (p *parser) fail(wanted string) {
	hint := ""
	if wanted != "" {
		hint = "Expected " + wanted + "."
	}
	if p.next >= len(p.tokens) {
		refuse(codeSyntaxError, len(p.text), hint, "syntax error at end of input")
	}
	refuse(codeSyntaxError, p.offset(p.next), hint, "syntax error at or near %q", p.spell(p.next))
}

// try consumes the given words if all of them follow.
func (p *parser) try(words ...string) bool {
	for i, w := range words {
		if !strings.EqualFold(p.spell(p.next+i), w) {
			return false
		}
	}
	p.next += len(words)
	return true
}

func (p *parser) need(words ...string) {
	if !p.try(words...) {
		p.fail(strings.Join(words, " "))
	}
}

// end refuses whatever is left over.
func (p *parser) end() {
	first := p.next
	for p.try(";") {
	}
	switch {
	case p.next == len(p.tokens):
	case p.next > first:
		refuse(codeSyntaxError, p.offset(p.next), "Send each statement by itself.", "a statement of Scrim's must be the only one of its message")
	default:
		p.fail("the end of the statement")
	}
}

// ident reads an identifier, folded and unquoted as PostgreSQL does.
func (p *parser) ident(what string) string {
	text := p.spell(p.next)
	if strings.HasPrefix(text, `"`) && len(text) > 2 {
		p.next++
		return strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
	}
	if p.next >= len(p.tokens) || !p.isWord() {
		p.fail(what)
	}
	p.next++
	return foldIdentifier(text)
}

// isWord tells whether the token at hand can be a name without quotes.
func (p *parser) isWord() bool {
	t := p.tokens[p.next]
	return t.GetToken() == pg_query.Token_IDENT || t.GetKeywordKind() == pg_query.KeywordKind_UNRESERVED_KEYWORD ||
		t.GetKeywordKind() == pg_query.KeywordKind_COL_NAME_KEYWORD
}

// foldIdentifier lowers ASCII letters only, as downcase_identifier does in a multi-byte encoding.
func foldIdentifier(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// relation reads a possibly qualified table name and returns it as typed.
func (p *parser) relation() string {
	start := p.offset(p.next)
	p.ident("a table name")
	for p.try(".") {
		p.ident("a table name")
	}
	return p.text[start:p.tokens[p.next-1].GetEnd()]
}

// idents reads a list of names without its parentheses.
func (p *parser) idents(what string) []string {
	list := []string{p.ident(what)}
	for p.try(",") {
		list = append(list, p.ident(what))
	}
	return list
}

func (p *parser) columns() []string {
	p.need("(")
	list := p.idents("a column name")
	p.need(")")
	return list
}

func (p *parser) ifNotExists() bool { return p.try("IF", "NOT", "EXISTS") }

func (p *parser) createEncoder() Command {
	c := createEncoder{
		OrReplace: p.replace, IfNotExists: !p.replace && p.ifNotExists(), LatentDims: defaultLatentDims, Epochs: defaultEpochs, BatchSize: defaultBatchSize, Device: defaultDevice,
	}
	c.Name = p.ident("an encoder name")
	p.need("ON")
	c.Table = p.relation()
	c.Columns = p.columns()
	if p.try("PASSTHROUGH") {
		c.Passthrough = p.columns()
	}
	if p.try("WITH") {
		p.need("(")
		p.encoderOption(&c)
		for p.try(",") {
			p.encoderOption(&c)
		}
		p.need(")")
	}
	if c.Target != "" && !slices.Contains(c.Passthrough, c.Target) {
		refuse("42703", -1, "The target is one of the columns in PASSTHROUGH (...).", "target %q is not a passthrough column", c.Target)
	}
	q := Query{SQL: c.sql(), tag: "CREATE ENCODER"}
	if c.Device != defaultDevice {
		q.Device = c.Device
	}
	return p.job(q)
}

// sql is the call of the function that does it.
func (c createEncoder) sql() string {
	leakage, target := "NULL", "NULL"
	if c.MaxLeakage > 0 {
		leakage = strconv.FormatFloat(c.MaxLeakage, 'g', -1, 64)
	}
	if c.Target != "" {
		target = literal(c.Target)
	}
	return fmt.Sprintf(`SELECT scrim.create_encoder(%s, %s::pg_catalog.regclass, %s, %s, latent_dims => %d, epochs => %d, batch_size => %d, seed => %d, device => %s, `+
		`allow_identifiers => %t, max_leakage => %s, target => %s, if_not_exists => %t, or_replace => %t) AS job`,
		literal(c.Name), literal(c.Table), textArray(c.Columns), textArray(c.Passthrough), c.LatentDims, c.Epochs, c.BatchSize, c.Seed, literal(c.Device),
		c.AllowIdentifiers, leakage, target, c.IfNotExists, c.OrReplace)
}

// textArray writes a text[].
func textArray(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = literal(s)
	}
	return "ARRAY[" + strings.Join(quoted, ", ") + "]::pg_catalog.text[]"
}

// job reads the end of a statement that starts a training.
func (p *parser) job(q Query) Command {
	if p.try("WAIT") {
		return Wait{q}
	}
	if p.next < len(p.tokens) && p.spell(p.next) != ";" {
		p.fail("WAIT")
	}
	return q
}

func (p *parser) trainEncoder() Command {
	return p.job(Query{SQL: fmt.Sprintf(`SELECT scrim.train_encoder(%s) AS job`, literal(p.ident("an encoder name"))), tag: "TRAIN ENCODER"})
}

func (p *parser) cancelTraining() Command {
	at := p.next
	id, err := strconv.ParseInt(strings.Trim(p.spell(at), "'"), 10, 64)
	if err != nil {
		p.fail("the number of a job")
	}
	p.next++
	return CancelTraining{Job: id}
}

func (p *parser) alterEncoder() Command {
	name := p.ident("an encoder name")
	switch {
	case p.try("UNSET", "SCHEDULE"):
		return ScheduleTraining{Name: name}
	case p.try("SET", "SCHEDULE"):
		at := p.next
		c := ScheduleTraining{Name: name, Schedule: p.quoted("a cron expression or an interval")}
		if c.Schedule == "" {
			refuse("22023", p.offset(at), "", "invalid schedule \"\"")
		}
		if p.try("ROW", "GROWTH") {
			c.RowGrowth = int64(p.integer(1, 1<<62))
		}
		return c
	case p.try("SET", "DEFAULT_VERSION"):
		p.need("=")
		return SetDefaultVersion{Name: name, Version: p.integer(1, math.MaxInt32)}
	}
	p.fail("SET DEFAULT_VERSION, SET SCHEDULE or UNSET SCHEDULE")
	return nil
}

// quoted reads a string literal.
func (p *parser) quoted(what string) string {
	if p.next >= len(p.tokens) || p.tokens[p.next].GetToken() != pg_query.Token_SCONST || !strings.HasPrefix(p.spell(p.next), "'") {
		p.fail(what)
	}
	s := p.spell(p.next)
	p.next++
	return strings.ReplaceAll(s[1:len(s)-1], "''", "'")
}

func (p *parser) encoderOption(c *createEncoder) {
	at := p.next
	name := p.ident("an option")
	p.need("=")
	switch name {
	case "latent_dims":
		c.LatentDims = p.integer(1, 1024)
	case "epochs":
		c.Epochs = p.integer(1, 10_000)
	case "batch_size":
		c.BatchSize = p.integer(1, 8192)
	case "seed":
		c.Seed = int64(p.integer(0, 1<<62))
	case "max_leakage":
		c.MaxLeakage = p.fraction()
	case "target":
		c.Target = p.ident("a passthrough column")
	case "device":
		c.Device = p.ident("cpu or cuda")
		if c.Device != defaultDevice && c.Device != "cuda" {
			refuse("22023", p.offset(p.next-1), "Devices are cpu and cuda.", "unrecognized device %q", c.Device)
		}
	case "allow_identifiers":
		c.AllowIdentifiers = p.try("true")
		if !c.AllowIdentifiers && !p.try("false") {
			p.fail("true or false")
		}
	default:
		refuse(codeSyntaxError, p.offset(at), "Options are latent_dims, epochs, batch_size, seed, device, allow_identifiers, max_leakage and target.",
			"unrecognized encoder option %q", name)
	}
}

func (p *parser) integer(least, most int) int {
	n, err := strconv.Atoi(p.spell(p.next))
	if err != nil {
		p.fail("a number")
	}
	if n < least || n > most {
		refuse("22023", p.offset(p.next), "", "%d is outside the valid range (%d .. %d)", n, least, most)
	}
	p.next++
	return n
}

// fraction reads a number above 0 and up to 1.
func (p *parser) fraction() float64 {
	f, err := strconv.ParseFloat(p.spell(p.next), 64)
	if err != nil || p.isWord() { // Go has words for numbers
		p.fail("a number")
	}
	if f <= 0 || f > 1 {
		refuse("22023", p.offset(p.next), "", "%s is outside the valid range (above 0, up to 1)", p.spell(p.next))
	}
	p.next++
	return f
}

func (p *parser) dropEncoder() Command {
	ifExists := p.try("IF", "EXISTS")
	return DropEncoder{IfExists: ifExists, Name: p.ident("an encoder name"), Cascade: p.cascade()}
}

// cascade reads CASCADE, or RESTRICT, which is the default.
func (p *parser) cascade() bool {
	if p.try("CASCADE") {
		return true
	}
	p.try("RESTRICT")
	return false
}

func (p *parser) createFeatureView() Command {
	c := CreateFeatureView{IfNotExists: p.ifNotExists(), Name: p.featureView()}
	p.need("FOR", "ENCODER")
	c.Encoder = p.ident("an encoder name")
	return c
}

func (p *parser) dropFeatureView() Command {
	ifExists := p.try("IF", "EXISTS")
	return DropFeatureView{IfExists: ifExists, Name: p.featureView(), Cascade: p.cascade()}
}

// featureView reads the name of a feature view, before which its schema may stand.
func (p *parser) featureView() string {
	at := p.next
	name := p.ident("a name")
	if !p.try(".") {
		return name
	}
	if name != runtimeSchema {
		refuse("3F000", p.offset(at), "Leave the schema out.", "feature views are in schema %s, not in %q", runtimeSchema, name)
	}
	return p.ident("a name")
}

func (p *parser) createMaskingPolicy() Command {
	c := CreateMaskingPolicy{OrReplace: p.replace, IfNotExists: !p.replace && p.ifNotExists()}
	c.Name = p.ident("a policy name")
	if p.try("AS") {
		return p.defineMaskingPolicy(c)
	}
	if !p.try("ON") {
		p.fail("ON or AS")
	}
	c.Table = p.relation()
	c.Columns = p.columns()
	if p.try("EXCEPT") {
		c.Except = p.idents("a role name")
	}
	p.need("USING")
	switch {
	case p.spell(p.next) == "(":
		c.Expression = p.parenthesized()
		if p.try("WHEN") {
			c.Condition = p.parenthesized()
		}
	case p.try("MODEL"):
		p.usingModel(&c)
		p.present(&c)
	case p.try("ENCODER"):
		c.Encoder = p.ident("an encoder name")
		if p.spell(p.next) == "(" {
			c.Inputs = p.columns()
		}
		p.present(&c)
	default:
		p.fail("ENCODER, MODEL or an expression in parentheses")
	}
	c.Cascade = p.try("CASCADE")
	if strings.EqualFold(p.spell(p.next), "EXCEPT") {
		p.fail("EXCEPT before USING")
	}
	return c
}

// wantsPolicy refuses what begins like a statement about masking policies: PostgreSQL has none that do.
func (p *parser) wantsPolicy() Command {
	p.fail("POLICY")
	return nil
}

func (p *parser) wantsPolicies() Command {
	p.fail("POLICIES")
	return nil
}

func (p *parser) present(c *CreateMaskingPolicy) {
	if p.try("PRESENT", "AS") {
		switch {
		case p.try("VECTOR"):
			c.Present = "VECTOR"
		case p.try("COMPONENTS"):
			c.Present = "COMPONENTS"
		default:
			p.fail("VECTOR or COMPONENTS")
		}
	}
}

func (p *parser) dropMaskingPolicy() Command {
	c := DropMaskingPolicy{IfExists: p.try("IF", "EXISTS")}
	c.Name = p.ident("a policy name")
	if !p.try("ON") {
		return DropMaskDefinition{Name: c.Name, IfExists: c.IfExists}
	}
	c.Table = p.relation()
	return c
}

func (p *parser) alterMaskingPolicy() Command {
	name := p.ident("a policy name")
	if p.try("SET") {
		p.need("BODY")
		p.need("->")
		return SetMaskBody{Name: name, Expression: p.body()}
	}
	if !p.try("ON") {
		p.fail("ON or SET BODY")
	}
	table := p.relation()
	switch {
	case p.try("RENAME"):
		p.need("TO")
		return RenamePolicy{Name: name, Table: table, To: p.ident("a policy name")}
	case p.try("SET"):
		p.need("EXCEPT")
		p.need("(")
		c := ExceptPolicy{Name: name, Table: table, Except: p.idents("a role name")}
		p.need(")")
		return c
	case p.try("ENABLE"):
		return EnablePolicy{Name: name, Table: table, Enable: true}
	case p.try("DISABLE"):
		return EnablePolicy{Name: name, Table: table}
	case p.try("ROTATE", "KEY"):
		return RotateKey{Name: name, Table: table}
	}
	p.fail("RENAME TO, SET EXCEPT, ENABLE, DISABLE or ROTATE KEY")
	return nil
}

func show(query string) func(*parser) Command {
	return func(*parser) Command { return Query{SQL: query, tag: "SHOW"} }
}

func (p *parser) showVersions() Command {
	return Query{tag: "SHOW", SQL: fmt.Sprintf(`SELECT * FROM scrim.encoder_versions WHERE encoder = %s ORDER BY version`, literal(p.ident("an encoder name")))}
}

// literal quotes a string for SQL whatever standard_conforming_strings says.
func literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

// Quote quotes an identifier.
func Quote(s string) string { return quote(s) }

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
