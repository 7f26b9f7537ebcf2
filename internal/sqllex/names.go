package sqllex

// word is what a name means to the classifier.
type word uint8

const (
	wOther word = iota // any other token, a quoted identifier included

	// Statements that a tenant's session survives unchanged.
	wSelect
	wInsert
	wUpdate
	wDelete
	wMerge
	wValues
	wTable
	wWith
	wShow
	wFetch
	wMove
	wSavepoint
	wRelease

	// Transaction control.
	wBegin
	wStart
	wCommit
	wEnd
	wAbort
	wRollback

	// Statements with a verdict of their own.
	wSet
	wPrepare
	wExecute
	wDeallocate
	wDiscard
	wCreate
	wAlter
	wDrop
	wCopy
	wExplain
	wCall
	wDo
	wWriter // TRUNCATE, GRANT, VACUUM …: writes, and nothing more is asked about it

	// Words inside a statement.
	wAll
	wAnalyze // ANALYZE, ANALYSE
	wAnd
	wAtomic
	wClusterObject // ROLE, GROUP, DATABASE, TABLESPACE, OWNED
	wConstraints
	wFor
	wFrom
	wIf
	wInto
	wLocal // LOCAL, GLOBAL
	wMapping
	wOr
	wPrepared
	wRoutine // FUNCTION, PROCEDURE
	wSession
	wSystem
	wTemp
	wTo
	wTransaction
	wTxSetting // transaction_isolation and its like
	wUser
	wVerbose

	// Functions and views, also when quoted.
	wSticky        // may leave session state or run SQL that does: not Plain
	wStickyRefused // the same, and refused by the strict guard
	wLasting       // the same, and no reset takes away what it leaves
	wLargeWrite    // the same, and writes large objects, which read-only transactions only refuse from PostgreSQL 16 on
	wRefused       // refused by the strict guard only
)

// isName tells names of functions and views, which count when quoted, from
// keywords, which do not.
func (w word) isName() bool { return w >= wSticky }

// lookup maps a lower-case identifier to its meaning.
func lookup(name []byte) word {
	switch string(name) {
	case "select":
		return wSelect
	case "insert":
		return wInsert
	case "update":
		return wUpdate
	case "delete":
		return wDelete
	case "merge":
		return wMerge
	case "values":
		return wValues
	case "table":
		return wTable
	case "with":
		return wWith
	case "show":
		return wShow
	case "fetch":
		return wFetch
	case "move":
		return wMove
	case "savepoint":
		return wSavepoint
	case "release":
		return wRelease
	case "begin":
		return wBegin
	case "start":
		return wStart
	case "commit":
		return wCommit
	case "end":
		return wEnd
	case "abort":
		return wAbort
	case "rollback":
		return wRollback
	case "set":
		return wSet
	case "prepare":
		return wPrepare
	case "execute":
		return wExecute
	case "deallocate":
		return wDeallocate
	case "discard":
		return wDiscard
	case "create":
		return wCreate
	case "alter":
		return wAlter
	case "drop":
		return wDrop
	case "copy":
		return wCopy
	case "truncate", "grant", "revoke", "comment", "reindex", "refresh", "vacuum",
		"cluster", "security", "import", "reassign":
		return wWriter
	case "explain":
		return wExplain
	case "call":
		return wCall
	case "do":
		return wDo
	case "all":
		return wAll
	case "analyze", "analyse":
		return wAnalyze
	case "and":
		return wAnd
	case "atomic":
		return wAtomic
	case "role", "group", "database", "tablespace", "owned":
		return wClusterObject
	case "constraints":
		return wConstraints
	case "for":
		return wFor
	case "from":
		return wFrom
	case "if":
		return wIf
	case "into":
		return wInto
	case "local", "global":
		return wLocal
	case "mapping":
		return wMapping
	case "or":
		return wOr
	case "prepared":
		return wPrepared
	case "function", "procedure":
		return wRoutine
	case "session":
		return wSession
	case "system":
		return wSystem
	case "temp", "temporary":
		return wTemp
	case "to":
		return wTo
	case "transaction":
		return wTransaction
	case "transaction_isolation", "transaction_read_only", "transaction_deferrable":
		return wTxSetting
	case "user":
		return wUser
	case "verbose":
		return wVerbose

	// Settings, directly or through the view's update rule.
	case "set_config", "pg_settings",
		// Locks that outlive the transaction.
		"pg_advisory_lock", "pg_advisory_lock_shared",
		"pg_try_advisory_lock", "pg_try_advisory_lock_shared",
		// Functions that run the SQL text, table or cursor they are given.
		"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema",
		"cursor_to_xml", "cursor_to_xmlschema",
		"table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema",
		"schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema",
		"database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema",
		"ts_stat", "ts_rewrite",
		"crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby", "xpath_table",
		// Large objects belong to the login that all tenants share. The names are
		// listed, not matched by prefix: lo_ is a common prefix of columns.
		"lo_close", "lo_export", "lo_get", "lo_lseek", "lo_lseek64", "lo_open", "lo_tell", "lo_tell64", "loread":
		return wStickyRefused

	case "lo_creat", "lo_create", "lo_from_bytea", "lo_import", "lo_put", "lo_truncate", "lo_truncate64", "lo_unlink", "lowrite":
		return wLargeWrite

	// Connections and temporary slots that belong to the session.
	case "dblink_connect", "dblink_connect_u",
		"pg_create_logical_replication_slot", "pg_create_physical_replication_slot",
		"pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot",
		"pg_replication_origin_session_setup", "pg_backup_start", "pg_start_backup":
		return wLasting

	case "setval", "setseed", "set_limit",
		"pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all":
		return wSticky

	case "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared",
		"pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared",
		"pg_terminate_backend", "pg_cancel_backend", "pg_notify", "pg_logical_emit_message",
		"pg_export_snapshot", "pg_stat_get_activity", "pg_stat_get_backend_activity",
		"pg_lock_status", "pg_prepared_statement", "pg_cursor", "pg_prepared_xact", "lastval",
		// The views of these functions.
		"pg_stat_activity", "pg_stat_replication", "pg_stat_ssl", "pg_stat_gssapi",
		"pg_locks", "pg_prepared_statements", "pg_cursors", "pg_prepared_xacts":
		return wRefused
	}
	if isDblink(name) {
		return wStickyRefused
	}
	return wOther
}

// isDblink reports whether name begins like all functions of that extension.
func isDblink(name []byte) bool {
	return len(name) >= len("dblink") && string(name[:len("dblink")]) == "dblink"
}

// barred is the name that a refusal gives. Only dblink has names that are not listed here.
func barred(name []byte) string {
	if isDblink(name) {
		return "dblink"
	}
	return string(name)
}
