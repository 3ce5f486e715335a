// Package train makes encoders: it trains an autoencoder on the rows of a table
// and exports its first half as an ONNX file for package udf.
//
// It exists because a training step written in Go is more than ten times slower
// than the same step as a graph of ONNX Runtime, which Scrim has to carry
// anyway. One graph holds the whole step (forward, backward, Adam); all
// parameters are one vector, and so are Adam's two moments, so the graph takes
// three vectors and a batch and returns the three vectors of the next step and
// the loss. Two sessions of that graph ping-pong between two sets of vectors, so
// no step allocates.
//
// # Life cycle
//
// [Run] is everything: it checks the configuration and the data (an [Error] says
// what is wrong with them and what to do), puts the rows in canonical order,
// standardises, trains, exports, and looks what the whole network does to a sample
// of the rows, which only it can (the decoder is thrown away). Cancelling its
// context ends it within a second, in the middle of a step too. Nothing outlives
// the call.
//
// # The same bytes
//
// The same rows, in whatever order, with the same configuration give the same
// file on the same kind of processor: rows are sorted by their values first,
// batches and initial weights come from one seeded generator, ONNX Runtime uses
// one thread, and the file carries no time or name of a machine.
//
// [Config.Device] may be CUDA; the same graph runs there, but for the sums over rows,
// which CUDA's ReduceSum would compute in changing order (the loss alone goes
// through it, over one dimension). So on one GPU with one installation a training
// should repeat itself too. That has not been seen yet:
// TestCUDA checks it where there is a GPU. Nor is it known
// whether it is faster: the vectors travel to the GPU and back at each step.
//
// # The encoder
//
// Input "features", double [N, k]: NaN is a missing value and becomes the
// training mean; then (x - mean) / std in double, clipped to ±10 so that
// outliers and infinities stay finite; then float, hidden layers with Tanh and a
// linear layer to "code", float [N, dims]. A feature that was constant in training
// has weights of zero. Metadata: scrim.version,
// scrim.features (a JSON array of names) and the test vector. No row of the
// table is in the file; means and standard deviations are.
//
// # How to debug
//
// A loss near 1 that does not fall means that the features hold nothing that so
// few latent dimensions can describe (independent noise), or too small a
// learning rate; a loss that is not finite ends Run with an Error. Write
// Result.Model to a file and open it in netron.app to see the graph.
package train
