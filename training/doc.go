// Package training looks after the model files of encoders.
//
// [Sweep] removes files that no registered version has: of encoders that were dropped, of a statement that was rolled back after it had
// published, and what a crash left half-written. It decides by what is registered alone, so nothing has to be written down when something is dropped.
// Two rules keep it from files that are needed: it lists files before it reads the registry, and publishing and sweeping exclude
// each other (see [Sweep]).
package training
