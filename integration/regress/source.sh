# Sourced by run: where PostgreSQL's source comes from and what is built of it.

# find_server sets bin and version to the installed server's.
find_server() {
    bin=${SCRIM_POSTGRES_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
    [ -x "$bin/postgres" ] && [ -x "$bin/psql" ] ||
        fail "no PostgreSQL server with psql is installed: install postgresql, or name its bin folder in SCRIM_POSTGRES_BIN"
    version=$("$bin/postgres" --version | sed -E 's/.*\(PostgreSQL\) ([^ ]+).*/\1/')
}

# fetch_source unpacks the source package that the installed server was built from. apt reads a configuration of its own,
# made of the machine's, so that it may fetch sources without anything being changed on the machine.
fetch_source() {
    local apt=$work/apt file options package=postgresql-${version%%.*} package_version
    package_version=$(dpkg-query -W -f '${source:Version}' "$package" 2>/dev/null) ||
        fail "$bin is not of a Debian package $package: name the source with --source"
    command -v dpkg-source >/dev/null || fail "dpkg-source is not installed: install dpkg-dev"
    rm -rf "$apt"
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/fetched"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed -E 's/^Types:.*/Types: deb-src/' "$file" >"$apt/sources/${file##*/}"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -nE 's/^deb(-src)? /deb-src /p' "$file" | sort -u >"$apt/sources/${file##*/}"
    done
    options=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/sources" -o Dir::State::lists="$apt/lists" -o APT::Sandbox::User=root)
    (
        cd "$apt/fetched"
        apt-get "${options[@]}" update
        apt-get "${options[@]}" source --download-only "$package=$package_version"
        dpkg-source --no-check -x ./*.dsc "$work/source"
    ) >"$work/logs/fetch" 2>&1 || fail "cannot fetch the source of $package $package_version (see $work/logs/fetch): name it with --source"
}

# build_suites makes the test programs and the libraries that the tests load into the server. Only their headers matter to
# the server, so what configure would find on this machine is left out.
build_suites() {
    mkdir -p "$work/logs"
    [ "$(cat "$work/lib/version" 2>/dev/null)" != "$version" ] || return 0
    rm -rf "$work/source" "$work/lib"
    if [ -n "$source" ]; then
        say "Copying $source"
        cp -R "$source" "$work/source"
    else
        say "Fetching the source"
        fetch_source
    fi
    [ -x "$work/source/configure" ] || fail "$work/source is no PostgreSQL source"
    say "Building the suites"
    (
        cd "$work/source"
        ./configure --without-readline --without-zlib CFLAGS=-O1
        make -j"$(nproc)" -C src/test/regress
        make -j"$(nproc)" -C src/test/isolation
        make -C contrib/spi
    ) >"$work/logs/build" 2>&1 || fail "cannot build the suites: see $work/logs/build"
    local of
    of=$("$work/source/src/test/regress/pg_regress" --version | sed 's/.* //; s/)$//')
    [ "$of" = "$version" ] || fail "the source is of PostgreSQL $of, the server is $version"
    mkdir "$work/lib"
    cp "$work"/source/src/test/regress/regress.so "$work"/source/contrib/spi/{refint,autoinc}.so "$work/lib"
    echo "$version" >"$work/lib/version"
}
