import java.io.*;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import org.postgresql.*;
import org.postgresql.copy.CopyManager;

/** pgjdbc: prepared statements in text and binary, fetchSize cursors, batches, COPY, LISTEN, cancel. Arguments: more of the
 * URL; the whole program runs once for each. */
public class Jdbc {
    static final String QUERY = "SELECT id, age, income, score FROM customers WHERE region = ? AND id <= ? ORDER BY id";
    static final String EVERYBODY = "SELECT id, age, income, score FROM customers ORDER BY id";
    static final PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    interface Failing {
        void run() throws Exception;
    }

    static final Map<String, String> env = System.getenv();

    public static void main(String[] args) throws Exception {
        for (String options : args) use(options);
    }

    static void use(String options) throws Exception {
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE") + "?" + options;
        try (Connection conn = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            selects(conn);
            transaction(conn);
            errors(conn);
            cursor(conn);
            batch(conn);
            copy(conn);
            metadata(conn);
            listen(conn);
            cancel(conn);
        }
    }

    static void section(String name) {
        out.println("== " + name);
    }

    static void print(ResultSet rows) throws SQLException {
        int n = rows.getMetaData().getColumnCount();
        while (rows.next()) {
            StringJoiner line = new StringJoiner("|");
            for (int i = 1; i <= n; i++) {
                Object v = rows.getObject(i);
                line.add(v == null ? "NULL" : v instanceof byte[] b ? "\\x" + HexFormat.of().formatHex(b) : v.toString());
            }
            out.println(line);
        }
        rows.close();
    }

    static void query(Connection conn, String sql, Object... args) throws SQLException {
        try (PreparedStatement s = conn.prepareStatement(sql)) {
            for (int i = 0; i < args.length; i++) s.setObject(i + 1, args[i]);
            print(s.executeQuery());
        }
    }

    static void run(Connection conn, String sql) throws SQLException {
        try (Statement s = conn.createStatement()) {
            s.execute(sql);
        }
    }

    /** Prints the SQLSTATE with which it fails. */
    static void fails(Failing what) throws Exception {
        try {
            what.run();
            out.println("no error");
        } catch (SQLException e) {
            out.println(e.getSQLState());
        }
    }

    static void selects(Connection conn) throws SQLException {
        section("codes prepared");
        try (PreparedStatement s = conn.prepareStatement(QUERY)) { // prepared in the server from the prepareThreshold-th time on
            for (int most = 5; most <= 60; most += 5) {
                s.setString(1, "EU");
                s.setInt(2, most);
                print(s.executeQuery());
            }
        }
        for (int i = 0; i < 8; i++) query(conn, "SELECT id, age, income, score FROM customers WHERE id = ?", 2000);
        section("types");
        for (int i = 0; i < 7; i++) query(conn, "SELECT * FROM kinds WHERE id = ANY(?) ORDER BY id", conn.createArrayOf("int4", new Integer[] {1, 2}));
        query(conn, "SELECT ?::int8, ?::text, ?::bytea, ?::date, ?::float8", 9007199254740993L, "it's", new byte[] {0, -1}, null, 0.1);
    }

    static void transaction(Connection conn) throws SQLException {
        run(conn, "CREATE TEMP TABLE t (a int, b text)");
        section("codes rollback");
        conn.setAutoCommit(false);
        run(conn, "INSERT INTO t VALUES (1, 'lost')");
        Savepoint savepoint = conn.setSavepoint();
        query(conn, QUERY, "EU", 10);
        conn.rollback(savepoint);
        conn.rollback();
        conn.setAutoCommit(true);
        section("rollback");
        query(conn, "SELECT count(*) FROM t");
    }

    static void errors(Connection conn) throws Exception {
        section("error");
        fails(() -> query(conn, "SELECT 1 / ?::int", 0));
        conn.setAutoCommit(false);
        fails(() -> query(conn, "SELECT nothing FROM customers"));
        fails(() -> query(conn, "SELECT 1"));
        conn.rollback();
        conn.setAutoCommit(true);
        query(conn, "SELECT ?::text", "recovered");
    }

    static void cursor(Connection conn) throws SQLException {
        section("codes cursor");
        conn.setAutoCommit(false);
        try (PreparedStatement s = conn.prepareStatement(EVERYBODY)) {
            s.setFetchSize(300);
            print(s.executeQuery());
            s.setFetchSize(1999);
            print(s.executeQuery());
        }
        conn.commit();
        conn.setAutoCommit(true);
        section("codes scroll");
        try (Statement s = conn.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
            s.setMaxRows(1500);
            ResultSet rows = s.executeQuery(EVERYBODY);
            rows.absolute(1490);
            print(rows);
        }
    }

    static void batch(Connection conn) throws SQLException {
        section("batch");
        try (PreparedStatement s = conn.prepareStatement("INSERT INTO t VALUES (?, ?)")) {
            for (int i = 0; i < 1000; i++) {
                s.setInt(1, i);
                s.setString(2, i % 10 == 0 ? null : "row " + i);
                s.addBatch();
            }
            out.println(Arrays.stream(s.executeBatch()).filter(n -> n != Statement.EXECUTE_FAILED).count());
        }
        query(conn, "SELECT count(*), count(b), sum(a) FROM t");
        run(conn, "TRUNCATE t");
        section("codes returning"); // generated keys of a batch, then codes on the same connection
        try (PreparedStatement s = conn.prepareStatement("INSERT INTO t VALUES (?, 'x')", new String[] {"a"})) {
            for (int i = 1; i <= 3; i++) {
                s.setInt(1, i);
                s.addBatch();
            }
            s.executeBatch();
        }
        query(conn, "SELECT c.id, c.age, c.income, c.score FROM customers c JOIN t ON t.a = c.id ORDER BY 1");
        run(conn, "TRUNCATE t");
    }

    static void copy(Connection conn) throws Exception {
        CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
        section("copy");
        out.println(copy.copyIn("COPY t FROM STDIN", new StringReader("1\tone\n2\t\\N\n")));
        StringWriter copied = new StringWriter();
        copy.copyOut("COPY (SELECT * FROM t ORDER BY a) TO STDOUT", copied);
        copy.copyOut("COPY (SELECT id, region FROM customers ORDER BY id LIMIT 5) TO STDOUT", copied);
        out.print(copied);
        section("copied codes");
        fails(() -> {
            StringWriter masked = new StringWriter();
            copy.copyOut("COPY customers (id, age) TO STDOUT", masked);
            out.print(masked);
        });
    }

    static void metadata(Connection conn) throws SQLException {
        section("catalog");
        ResultSet columns = conn.getMetaData().getColumns(null, "public", "customers", "%");
        while (columns.next()) out.println(columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME"));
    }

    static void listen(Connection conn) throws SQLException {
        section("notify");
        run(conn, "LISTEN " + env.get("CHANNEL"));
        run(conn, "NOTIFY " + env.get("CHANNEL") + ", 'hello'");
        for (PGNotification n : conn.unwrap(PGConnection.class).getNotifications(10000)) out.println(n.getParameter());
    }

    static void cancel(Connection conn) throws Exception {
        section("cancel");
        try (Statement s = conn.createStatement()) {
            Timer timer = new Timer(true);
            timer.schedule(new TimerTask() {
                @Override
                public void run() {
                    try {
                        s.cancel();
                    } catch (SQLException e) {
                        throw new IllegalStateException(e);
                    }
                }
            }, 500);
            fails(() -> s.executeQuery("SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1"));
        }
        query(conn, "SELECT 1");
    }
}
