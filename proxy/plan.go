package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/policy"
	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

// planVersion is what a plan depends on besides its text.
type planVersion struct {
	snapshot *catalog.Snapshot
	grants   int // counts changes of what the role may read raw
}

// planner keeps a session's plans. It is the frontend's alone.
type planner struct {
	version  planVersion
	readable map[catalog.ColumnKey]bool
	current  policy.Masks
	looked   time.Time
	plans    map[string][]*statement // nil for text that is relayed
	// views are those that the plans were made under; made are names of others that the session may have made.
	views *catalog.Views
	made  map[string]bool
	// serializable is the isolation level of transactions by default.
	serializable bool
	// noViews means that the client has forbidden itself views, as pg_dump does: the masked one is not meant.
	noViews bool
}

const (
	maxPlans      = 512
	maxPlanText   = 16 << 10 // longer texts are planned each time
	grantsRefresh = 10 * time.Second
	// catalogPatience is how long a statement waits for the catalog before it goes on with what was known. PostgreSQL's
	// grants stand whatever Scrim knows.
	catalogPatience = 2 * time.Second
)

// masks returns the masks of the session's login role, looking at the grants again when the catalog changed, when the
// server refused a privilege, and now and then. Of a role that was never looked up it says that nothing is masked: then
// the server refuses what it may not read.
func (p *planner) masks(ctx context.Context, s *session) (policy.Masks, error) {
	snapshot := s.srv.catalog.Snapshot()
	if len(snapshot.Protections) == 0 || s.elsewhere {
		if snapshot != p.version.snapshot {
			s.masked.Store(false)
			*p = planner{version: planVersion{snapshot: snapshot, grants: p.version.grants + 1}}
		}
		return policy.Masks{}, nil
	}
	if views := s.srv.catalog.Views(); views != p.views {
		p.views = views
		clear(p.plans)
	}
	denied := s.denied.Load()
	if snapshot == p.version.snapshot && !denied && time.Since(p.looked) < grantsRefresh {
		return p.current, nil
	}
	if s.onLoop {
		return policy.Masks{}, errWaits
	}
	s.denied.Store(false) // before looking: what is denied from now on needs another look
	ctx, cancel := context.WithTimeout(ctx, catalogPatience)
	defer cancel()
	if denied { // for want of a privilege on what a view reads, perhaps, that nobody knew of
		if err := s.srv.catalog.LookForViews(ctx); err != nil {
			s.log.WarnContext(ctx, "views cannot be read, keeping what was known", "error", err)
		}
		p.views = s.srv.catalog.Views()
		clear(p.plans)
	}
	p.looked = time.Now() // also when it fails: not every statement shall wait for a catalog that does not answer
	readable, err := s.srv.catalog.Readable(ctx, s.role)
	if err != nil {
		s.log.WarnContext(ctx, "grants cannot be read, keeping what was known", "error", err)
		return p.current, nil
	}
	if denied || snapshot != p.version.snapshot || !maps.Equal(readable, p.readable) {
		p.version = planVersion{snapshot: snapshot, grants: p.version.grants + 1}
		p.readable, p.current = readable, policy.For(snapshot, readable)
		s.masked.Store(p.current.Any())
		clear(p.plans)
	}
	return p.current, nil
}

// plan decides what to do with the text of a Query or Parse: what its statements are, or nil to relay it unseen.
// ownTx says that the client has nothing under way that a question of ours could end.
func (f *frontend) plan(ctx context.Context, text string, ownTx bool) ([]*statement, error) {
	s, p := f.s, &f.s.planner
	masks, err := p.masks(ctx, s)
	if err != nil {
		return nil, err
	}
	if !masks.Any() && !f.planned && !rewrite.MaybeCommand(text) {
		return nil, nil
	}
	if !s.readable(text) { // also what was planned: it could be read otherwise now
		return nil, nil
	}
	if list, ok := p.plans[text]; ok {
		return list, s.stillServed(list)
	}
	if s.onLoop { // parsing takes its time, and names are looked up upstream
		return nil, errWaits
	}
	var protected func(rewrite.Name) bool
	if masks.Any() {
		protected = p.named
	}
	in, err := rewrite.Inspect(text, protected)
	if err != nil {
		return nil, err
	}
	if in.MovesNames {
		clear(p.plans)
	}
	p.makes(in.Views)
	if c, ok := in.Command.(rewrite.ExplainMasking); ok && !s.elsewhere {
		return f.explainMasking(ctx, c, text, ownTx)
	}
	if in.Command != nil {
		return s.own(ctx, in.Command, text, ownTx)
	}
	var plans []*rewrite.Plan
	if len(in.Names) > 0 {
		if s.txStatus() == 'E' && s.queue.idle() { // nothing can be asked, and the server refuses in its own words
			return f.list(in, nil), nil
		}
		if plans, err = f.decide(ctx, in, masks, ownTx); err != nil {
			return nil, err
		}
	}
	list := f.list(in, plans)
	if len(text) <= maxPlanText && sizeOf(plans) <= 8*maxPlanText && !in.MovesNames {
		if p.plans == nil || len(p.plans) >= maxPlans {
			p.plans = map[string][]*statement{}
		}
		p.plans[text] = list
	}
	return list, s.stillServed(list)
}

// named tells whether a name can be a protected relation, a masked view, a catalog of columns, or a view with the invoker's rights. Of
// those, a new one that another session has made can be missed. It is relayed then, and refused by the server, since it
// would read a masked column; after that the catalog's views are read again.
func (p *planner) named(n rewrite.Name) bool { return p.namedIn(p.version.snapshot, n) }

func (p *planner) namedIn(snapshot *catalog.Snapshot, n rewrite.Name) bool {
	if n.Schema == "scrim_runtime" { // no client may name a masked view
		return snapshot.NamedFeatureView(n.Relation)
	}
	return rewrite.NamesColumns(n) || snapshot.Named(n.Relation) || p.views.Named(n.Relation) || p.made[n.Relation]
}

// maxMade bounds the names of views that a session is known to have made itself.
const maxMade = 1024

// makes notes names that the session gives to views: until it commits nobody else can see them.
func (p *planner) makes(names []string) {
	for _, name := range names {
		if p.made == nil {
			p.made = map[string]bool{}
		}
		if len(p.made) < maxMade {
			p.made[name] = true
		}
	}
}

// sizeOf is how long the texts of plans are: with views in them that has little to do with the client's.
func sizeOf(plans []*rewrite.Plan) int {
	size := 0
	for _, p := range plans {
		if p != nil {
			size += len(p.SQL)
		}
	}
	return size
}

// own makes the statement of a command, where it can be run.
func (s *session) own(ctx context.Context, cmd rewrite.Command, text string, ownTx bool) ([]*statement, error) {
	if s.elsewhere {
		return nil, &Error{Code: codeFeatureNotSupported, Message: "this proxy runs Scrim's statements in database " + s.srv.catalog.Database() + " only"}
	}
	if device := deviceOf(cmd); device != "" {
		// What this machine lacks is for those to know who may train.
		if err := s.ask(ctx, ownTx, `SELECT scrim.require_trainer()`, nil, nil); err != nil {
			return nil, err
		}
		if err := s.srv.library.Runtime().Device(udf.Device(device)); err != nil {
			return nil, err
		}
	}
	return []*statement{{Statement: rewrite.Statement{Text: text}, command: cmd}}, nil
}

// deviceOf is what a command needs besides a CPU.
func deviceOf(cmd rewrite.Command) string {
	switch c := cmd.(type) {
	case rewrite.Query:
		return c.Device
	case rewrite.Wait:
		return c.Device
	}
	return ""
}

// decide resolves the names of a text and plans its statements.
func (f *frontend) decide(ctx context.Context, in *rewrite.Inspected, masks policy.Masks, ownTx bool) ([]*rewrite.Plan, error) {
	if err := f.flush(); err != nil {
		return nil, err
	}
	resolved, err := f.resolveAll(ctx, in.Names, ownTx)
	if err != nil {
		return nil, err
	}
	plans, err := in.Plan(resolved, masks)
	if errors.Is(err, rewrite.ErrOutdated) {
		p := &f.s.planner
		if err := f.s.srv.catalog.Replace(ctx, p.version.snapshot); err != nil {
			return nil, err
		}
		if masks, err = p.masks(ctx, f.s); err != nil {
			return nil, err
		}
		plans, err = in.Plan(resolved, masks)
	}
	return plans, err
}

// list makes the statements of a text that was planned, or nil where there is nothing to know about any of them.
func (f *frontend) list(in *rewrite.Inspected, plans []*rewrite.Plan) []*statement {
	known := plans != nil
	for _, s := range in.Statements {
		known = known || s.Effect.Verb != rewrite.Plain || s.Stores != ""
	}
	if !known {
		return nil
	}
	f.planned = f.planned || plans != nil
	list := make([]*statement, len(in.Statements))
	for i, s := range in.Statements {
		list[i] = &statement{Statement: s, before: utf8.RuneCountInString(in.Text()[:s.Offset]), version: f.s.planner.version}
		if plans != nil {
			list[i].plan = plans[i]
			if plans[i] != nil && f.s.audits() { // a change of that is a new snapshot: all is planned anew
				list[i].fingerprint = fingerprint(s.Text)
			}
		}
	}
	return list
}

// stillServed refuses a planned statement when the catalog was not heard of for too long: its policies may be outdated.
func (s *session) stillServed(list []*statement) error {
	reads := func(st *statement) bool { return st.plan != nil && st.plan.Masks() }
	if slices.ContainsFunc(list, reads) && !s.srv.catalog.Fresh() {
		return errNotFresh
	}
	return nil
}

var errNotFresh = &Error{Code: codeObjectNotInState, Message: "masked columns cannot be read while Scrim's catalog is out of reach", Hint: "Try again."}

// readable tells whether Scrim reads the text as the server will. Where it might not, the text is relayed, and the grants
// answer: with standard_conforming_strings off a backslash means something else, and in the encodings that have no
// ASCII guarantee (SJIS, BIG5, GBK and so on) a byte can look like a quote or backslash.
func (s *session) readable(text string) bool {
	if s.param("standard_conforming_strings") == "off" && strings.Contains(text, `\`) {
		return false
	}
	if s.param("client_encoding") != "UTF8" {
		return strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
	}
	return utf8.ValidString(text)
}

// resolveSQL asks what names mean to the client. Everything is qualified: the client's search_path must not matter to
// anything but the names.
const resolveSQL = relationSQL + ` JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(n.name)::pg_catalog.oid` + querySQL

// beneathSQL asks the same of names that stand in views. The client need not have USAGE on their schemas to look.
const beneathSQL = relationSQL + ` JOIN pg_catalog.unnest($2::pg_catalog.text[]) WITH ORDINALITY AS s(name, ord) ON s.ord OPERATOR(pg_catalog.=) n.ord
JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) n.name::pg_catalog.name AND c.relnamespace OPERATOR(pg_catalog.=) CASE s.name
	WHEN 'pg_temp' THEN pg_catalog.pg_my_temp_schema()
	ELSE (SELECT o.oid FROM pg_catalog.pg_namespace o WHERE o.nspname OPERATOR(pg_catalog.=) s.name::pg_catalog.name) END` + querySQL

// information_schema.columns is left to the server where its query would not mean the same: see still_views.
const (
	relationSQL = `SELECT n.ord::pg_catalog.int4, c.oid, ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
	WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped ORDER BY a.attnum),
	ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
		ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[])
	WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary),
	pg_catalog.current_setting('default_transaction_isolation') OPERATOR(pg_catalog.=) 'serializable',
	pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) OPERATOR(pg_catalog.~~) '%view%',
	v.query, pg_catalog.hashtextextended(v.query, 0)
FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS n(name, ord)`
	querySQL = `
CROSS JOIN LATERAL (SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'v'
	AND (c.relname OPERATOR(pg_catalog.<>) 'columns' OR (SELECT s.schema FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS s(schema, ord)
		WHERE s.schema OPERATOR(pg_catalog.!~~) 'pg\_temp\_%' ORDER BY s.ord LIMIT 1) OPERATOR(pg_catalog.=) 'pg_catalog')
	THEN scrim_runtime.view_query(c.oid) END AS query OFFSET 0) v`
)

// resolveAll looks names up, and those in the queries of the views among them, and so on.
func (f *frontend) resolveAll(ctx context.Context, names []rewrite.Name, ownTx bool) (map[rewrite.Name]rewrite.Relation, error) {
	queries := 0 // bytes of views' queries so far
	resolved, asked := map[rewrite.Name]rewrite.Relation{}, map[rewrite.Name]bool{}
	sql, params := resolveSQL, func() []string {
		quoted := make([]string, len(names))
		for i, n := range names {
			quoted[i] = n.Quoted()
		}
		return []string{textArray(quoted)}
	}
	for range rewrite.MaxViewDepth {
		if err := f.resolve(ctx, resolved, &queries, names, ownTx, sql, params()); err != nil {
			return nil, err
		}
		for _, n := range names {
			asked[n] = true
		}
		if names = rewrite.Beneath(resolved, asked); len(names) == 0 {
			break
		}
		sql, params = beneathSQL, func() []string {
			relations, schemas := make([]string, len(names)), make([]string, len(names))
			for i, n := range names {
				relations[i], schemas[i] = n.Relation, n.Schema
			}
			return []string{textArray(relations), textArray(schemas)}
		}
	}
	return resolved, nil
}

// maxQueries bounds the queries of views that are looked up for one text. Others are left to the server.
const maxQueries = 4 << 20

func (f *frontend) resolve(ctx context.Context, resolved map[rewrite.Name]rewrite.Relation, queries *int, names []rewrite.Name, ownTx bool, sql string,
	params []string,
) error {
	return f.s.ask(ctx, ownTx, sql, params, func(cells []cell) error {
		if len(cells) != 8 {
			return errors.New("resolve: unexpected columns")
		}
		ord := int(cellUint32(cells[0]))
		if ord < 1 || ord > len(names) {
			return errors.New("resolve: unexpected row")
		}
		columns, err := cellTexts(cells[2])
		if err != nil {
			return err
		}
		key, err := cellTexts(cells[3])
		rel := rewrite.Relation{OID: cellUint32(cells[1]), Columns: columns, Key: key}
		f.s.planner.serializable, f.s.planner.noViews = string(cells[4]) == "\x01", string(cells[5]) == "\x01"
		*queries += len(cells[6])
		if query := string(cells[6]); len(cells[7]) == 8 && *queries <= maxQueries && !f.s.planner.noViews && f.s.readable(query) {
			rel.View = rewrite.NewView(query, int64(binary.BigEndian.Uint64(cells[7])))
		}
		resolved[names[ord-1]] = rel
		return err
	})
}

// textArray writes a text[] literal.
func textArray(list []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + escape.Replace(s) + `"`)
	}
	b.WriteByte('}')
	return b.String()
}

// current returns the statement as it would be planned now. A prepared statement whose plan sends another text cannot
// run: the server has the old one. PostgreSQL's words for that make drivers prepare it again.
func (f *frontend) current(ctx context.Context, st *statement) (*statement, error) {
	fresh, err := f.planAgain(ctx, st)
	if err == nil && fresh.plan != nil && fresh.plan.SQL != st.plan.SQL {
		return nil, errOutdatedPlan
	}
	return fresh, err
}

// planAgain returns the statement as it would be planned now. Its text may be another; what it gives has the same types.
func (f *frontend) planAgain(ctx context.Context, st *statement) (*statement, error) {
	if _, err := f.s.planner.masks(ctx, f.s); err != nil {
		return nil, err
	}
	if st.version == f.s.planner.version {
		return st, f.s.stillServed([]*statement{st})
	}
	if f.s.txStatus() == 'E' && f.s.queue.idle() {
		return st, nil // the server refuses it in its own words
	}
	now, err := f.plan(ctx, st.Text, false)
	if err != nil {
		return nil, err
	}
	if !st.plan.Masks() && (len(now) != 1 || now[0].plan == nil) { // the catalogs that it asks have nothing to show any more
		fresh := *st
		fresh.version, fresh.plan = f.s.planner.version, &rewrite.Plan{SQL: st.Text}
		return &fresh, nil
	}
	if len(now) != 1 || now[0].plan == nil || now[0].plan.SQL != st.plan.SQL && !showsTheSame(now[0].plan, st.plan) {
		return nil, errOutdatedPlan
	}
	fresh := *now[0]
	if st.Effect.Verb == rewrite.Plain { // a PREPARE brought it
		fresh = *fresh.made()
	}
	fresh.params, fresh.types = st.params, st.types
	return &fresh, nil
}

// showsTheSame tells whether two plans of one text mask the same columns and show them as the same types: then only the policies were
// replaced.
func showsTheSame(a, b *rewrite.Plan) bool {
	return a.Staged() == b.Staged() && maps.EqualFunc(typesShown(a), typesShown(b), maps.Equal[map[int16]catalog.Presentation])
}

// typesShown says what each masked column of each relation that a plan reads by its masked view is shown as: a code, or by an SQL mask,
// without a presentation, as what it is.
func typesShown(p *rewrite.Plan) map[uint32]map[int16]catalog.Presentation {
	shown := map[uint32]map[int16]catalog.Presentation{}
	for _, m := range p.Mentions {
		of := m.Mask.Protection
		if p.Views[of.View.OID] == nil {
			continue
		}
		columns := map[int16]catalog.Presentation{}
		for num := range m.Mask.Hidden {
			columns[num] = of.Policy(num).Present
		}
		shown[of.Relation.OID] = columns
	}
	return shown
}

// prepareAgain gives a statement's name to the same statement with the text that it would be sent as now.
func (f *frontend) prepareAgain(name string, st *statement) error {
	if err := f.send(&pgproto3.Close{ObjectType: 'S', Name: name}, &pending{kind: 'C', silent: true, changes: f.s.send(f.s.hides(name))}); err != nil {
		return err
	}
	if err := f.sameReading(st.sent()); err != nil {
		return err
	}
	msg := append(append(append([]byte(name), 0), st.sent()...), 0)
	return f.forward(frame('P', append(msg, st.types...)), &pending{kind: 'P', silent: true, edited: st, changes: f.s.send(change{name: name, stmt: st})})
}

// errOutdatedPlan is in PostgreSQL's words for it: they make drivers prepare anew.
var errOutdatedPlan = &Error{Code: codeFeatureNotSupported, Message: "cached plan must not change result type"}

// newResults gets the models that a statement needs and works out the formats.
func (f *frontend) newResults(ctx context.Context, st *statement, formats []int16) (*results, error) {
	r := &results{plan: st.plan, sealedType: st.version.snapshot.SealedType, notes: st.plan.Notes, reading: f.s.reading(st)}
	for _, seal := range st.plan.Seals {
		enc, err := f.encoder(ctx, seal.Policy)
		if err != nil {
			return nil, err
		}
		r.encoders = append(r.encoders, enc)
	}
	for _, o := range st.plan.Outputs {
		if o.Seal >= 0 && o.Component >= r.encoders[o.Seal].Dims() {
			return nil, &Error{Code: codeSystemError, Message: "the masking policy has more columns than its encoder has components"}
		}
	}
	return r, r.setFormats(formats)
}
