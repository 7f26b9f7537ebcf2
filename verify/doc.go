// Package verify tries to break in: it makes two tenants that exist for the run only, gives each a row in each table of
// tenants, and lets one of them go for the other's rows in every way that it knows, through the driver as programs use it.
//
// [Run] needs the login of tenants' statements and an administrator's. It says for each table and attack whether the
// barrier held. What could not be tried is not counted as held:
//
//	Held      tried, and nothing of the other tenant was read, changed or found out
//	Broken    the attack got through
//	Known     it got through, as documented: nothing at this level of the database stops it
//	NotTried  it could not be tried, so nothing is proved
//
// Every attack aims at the rows of the second tenant, in transactions that are rolled back. Rows of real tenants are neither
// read nor written, and no registry is asked or changed. The two tenants have reserved IDs ([IDs]), and each row that is made
// carries one of them: what a run leaves when it is killed is found by them, and removed by the next run or by [Cleanup].
//
// [Canary] is for a job that runs every minute: it reads only, as two tenants that an operator has added for it.
package verify
