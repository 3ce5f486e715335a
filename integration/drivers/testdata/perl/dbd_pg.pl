# DBD::Pg: server-side prepare, types, savepoints, SQL cursors, COPY, LISTEN, asynchronous queries and cancel.
use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types :async);
binmode STDOUT, ':utf8';
$| = 1;

my $query     = 'SELECT id, age, income, score FROM customers WHERE region = ? AND id <= ? ORDER BY id';
my $everybody = 'SELECT id, age, income, score FROM customers ORDER BY id';
my $sleepy    = 'SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1';

my $dbh = DBI->connect('dbi:Pg:', undef, undef, { RaiseError => 1, PrintError => 0, AutoCommit => 1 });

sub section { print "== $_[0]\n" }
sub cell {
    my $v = shift;
    return 'NULL' unless defined $v;
    return '{' . join(',', @$v) . '}' if ref $v;
    return $v =~ /^-?\d+\.\d{9,}/ ? sprintf('%.17g', $v) : $v;    # perl itself prints 15 digits of a double
}
sub show    { print join('|', map { cell($_) } @$_), "\n" for @{ $_[0] } }
sub rows    { my ($sql, @args) = @_; show($dbh->selectall_arrayref($sql, undef, @args)) }
sub fails   { my $sql = shift; print eval { rows($sql, @_); 1 } ? "no error\n" : $dbh->state . "\n" }

section('codes prepared');
my $sth = $dbh->prepare($query);
for my $most (20, 40, 60) { $sth->execute('EU', $most); show($sth->fetchall_arrayref) }
for my $prepare (0, 1, 2) {
    my $s = $dbh->prepare($query, { pg_server_prepare => $prepare });
    for my $most (20, 40) { $s->execute('US', $most); show($s->fetchall_arrayref) }
}

section('types');
rows('SELECT * FROM kinds WHERE id = ANY(?) ORDER BY id', [1, 2]);
my $typed = $dbh->prepare('SELECT ?::int8, ?::text, ?::bytea, ?::date, ?::float8');
$typed->bind_param(3, "\0\xff", { pg_type => PG_BYTEA });
$typed->execute('9007199254740993', "it's", "\0\xff", undef, 0.1);
my ($row) = $typed->fetchrow_arrayref;
print join('|', map { $_ == 2 ? unpack('H*', $row->[$_]) : cell($row->[$_]) } 0 .. 4), "\n";

$dbh->do('CREATE TEMP TABLE t (a int, b text)');
section('codes rollback');
$dbh->begin_work;
$dbh->do('INSERT INTO t VALUES (?, ?)', undef, 1, 'lost');
$dbh->pg_savepoint('s');
rows($query, 'EU', 10);
$dbh->pg_rollback_to('s');
$dbh->rollback;
section('rollback');
rows('SELECT count(*) FROM t');

section('error');
fails('SELECT 1 / ?::int', 0);
$dbh->begin_work;
fails('SELECT nothing FROM customers');
fails('SELECT 1');
$dbh->rollback;
rows('SELECT ?::text', 'recovered');

section('codes cursor');
$dbh->begin_work;
$dbh->do("DECLARE c CURSOR FOR $everybody");
while (my $part = $dbh->selectall_arrayref('FETCH 300 FROM c')) { last unless @$part; show($part) }
$dbh->do('CLOSE c');
$dbh->commit;

section('copy');
$dbh->do('COPY t FROM STDIN');
$dbh->pg_putcopydata("1\tone\n2\t\\N\n");
$dbh->pg_putcopyend;
sub copied {
    $dbh->do("COPY $_[0] TO STDOUT");
    my $line = '';
    print $line while $dbh->pg_getcopydata(\$line) >= 0;
}
copied('(SELECT * FROM t ORDER BY a)');
copied('(SELECT id, region FROM customers ORDER BY id LIMIT 5)');
section('copied codes');
eval { copied('customers (id, age)'); 1 } or print $dbh->state, "\n";

section('catalog');
my $columns = $dbh->column_info(undef, 'public', 'customers', '%');
while (my $c = $columns->fetchrow_hashref) { print "$c->{COLUMN_NAME} $c->{TYPE_NAME}\n" }

section('notify');
$dbh->do("LISTEN $ENV{CHANNEL}");
$dbh->do('SELECT pg_notify(?, ?)', undef, $ENV{CHANNEL}, 'hello');
print $dbh->pg_notifies->[2], "\n";

section('codes async');
my $later = $dbh->prepare($query, { pg_async => PG_ASYNC });
$later->execute('APAC', 30);
$later->pg_result;
show($later->fetchall_arrayref);
section('cancel');
$later = $dbh->prepare($sleepy, { pg_async => PG_ASYNC });
$later->execute;
select(undef, undef, undef, 0.5);
$dbh->pg_cancel;
print $dbh->state || $later->state, "\n";
rows('SELECT 1');
$dbh->disconnect;
