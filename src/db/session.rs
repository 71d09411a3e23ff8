//! The settings of our sessions in PostgreSQL.

/// Names of settings, with their values as PostgreSQL shows them.
pub(super) type SessionSettings = &'static [(&'static str, &'static str)];

/// The settings of every session, which override those of the user, the database and the cluster.
/// Quoted names of types would not be recognised. Our statements need no isolation above `read
/// committed`, and a stricter one causes conflicts. With `row_security` off, a statement fails if a
/// policy would hide rows, instead of losing files silently.
pub(super) const EVERY: SessionSettings = &[
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("default_transaction_isolation", "read committed"),
];

/// The further settings of a server's sessions: no statement may run for long, or wait for a lock
/// for long. `enable_seqscan` is off, because a plan made while the table was empty would read the
/// whole table when it has grown (measured: until autovacuum has analyzed the table, 1,200 files of
/// 1 KB per second among 20,000, instead of 14,000). `jit` is off, because without `enable_seqscan`
/// PostgreSQL overestimates the cost of a statement that must read a whole table, and would compile
/// it.
pub(super) const SERVER: SessionSettings = &[
    ("statement_timeout", "30s"),
    ("lock_timeout", "3s"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// The further settings of the session that rebuilds an index, which may take hours.
pub(super) const REBUILD: SessionSettings = &[("statement_timeout", "0"), ("lock_timeout", "0")];

/// The statements that give a session these settings and those of [`EVERY`] session.
pub(super) fn statements(further: SessionSettings) -> String {
    let all = EVERY.iter().chain(further);
    let each: Vec<String> = all
        .map(|(name, value)| format!("SET {name} = '{value}'"))
        .collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_a_statement() {
        let statements = statements(REBUILD);
        assert!(
            statements.ends_with("; SET statement_timeout = '0'; SET lock_timeout = '0'"),
            "{statements}"
        );
        assert_eq!(statements.matches("SET ").count(), EVERY.len() + 2);
    }
}
