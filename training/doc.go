// Package training trains encoders in the background.
//
// A training is a job of River's (https://riverqueue.com), whose tables lie in scrim_state. It is asked for by the function
// scrim.create_encoder or scrim.train_encoder, in the transaction of whoever asks, and taken by whichever Worker is free: each
// `scrim serve` has one, and `scrim worker` is one alone. sql/functions/045_training.sql holds what happens in the database.
//
// # One at a time
//
// Of all workers on a database one trains. The row of scrim_state.training_slot names the job and the connection that holds it: the
// process id and start of its backend. The slot is taken with one UPDATE, which succeeds while the row is empty or names a backend
// that is gone. The same connection registers the version in the end, in the transaction that gives the slot back and ends the
// job. So a worker that lost its connection cannot publish, and one that is killed leaves nothing to clean up by hand: within a
// second or two another one calls scrim.rescue_training, and the job is tried again, three times in all.
//
// # Who reads
//
// Whoever plans a query on a table runs its owner's code: functions in its indexes, in its row-security policies, in the views above it. Code
// of others who may not read the features is looked for beforehand (scrim.code_below), and refused.
// So rows are read in a session that logs in as a role of Scrim's for that table's owner alone. It is granted SELECT on
// the features for the time of the job, read-only, under a password made for the job and known to its worker only. Where the table has row
// security it is made a member of the owner for that time: BYPASSRLS would show the owner's code other people's rows. pg_hba.conf must
// let such roles in from where workers run (their names begin with scrim_trainer_), by scram-sha-256 for example.
//
// # Steps of a job
//
// reading (rows are streamed into memory, eight bytes a value), training (udf/train), reporting (udf/report: may refuse the result),
// publishing (udf.Store, then the registry). Progress and the wish to cancel are exchanged four times a second.
//
// # Files
//
// [Sweep] removes files that no registered version has: of encoders that were dropped, of a job that was cancelled after it had
// published, and what a crash left half-written. It decides by what is registered alone, so nothing has to be written down when something is dropped.
// Two rules keep it from files that are needed: it lists files before it reads the registry, and publishing and sweeping exclude
// each other (see [Sweep]).
package training
