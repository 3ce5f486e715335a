// Package udf runs models: it turns the columns of a batch of rows into codes.
//
// It exists so that nothing else in Scrim knows ONNX Runtime. The contract that
// the rest of the system leans on is that the same input gives the same code,
// bit for bit, whatever the batch size, the row's place in it, the number of
// goroutines and the process. Three things make it so: one session for each
// model with fixed options (see [NewSessionOptions]), encoder graphs that use
// only operators measured to be stable, and a test vector stored in each model
// file that must come out bit-identical before the model is used on a machine.
//
// # Devices
//
// A model is made for a [Device], which its file names (metadata scrim.device; none
// is the CPU), and runs there or not at all: another device computes other bits, and
// so would a silent fallback. [Runtime.Device] says what is missing; loading a model
// for CUDA where CUDA is missing is the same [*DeviceError].
//
// On CUDA products are full float (no TF32), nothing is left to the CPU, and every
// run has 1,024 rows, the last ones padding: cuBLAS promises the same bits for the
// same call on GPUs of one architecture with as many multiprocessors and one version of
// the library, not for the same row in a batch of another shape. So the promise
// above holds there for one kind of GPU and one installation. It is not believed:
// the test vector was computed on the device, and must come out the same at every
// load, in all places of a chunk. What does not reproduce it refuses to load.
//
// # Models
//
// An [Encoder] can also be any other model that takes rows of numbers and gives a row for each (EncoderSpec.Model): what goes in and
// comes out is read from its file, and the lane converts. [Runtime.CheckModel] decides at registration whether a file is fit, by trying it:
// graphs of other people's making may use operators that are not stable. The predictions are its codes.
//
// # Life cycle
//
// [NewRuntime] loads the library and is called once, early. [Runtime.LoadEncoder]
// reads, checks and warms a model in the background of whatever is running;
// [Encoder.Encode] may then be called from any number of goroutines. Switching
// versions is loading the new one, pointing new statements at it, and
// [Encoder.Close] on the old one after its last statement (Close waits for calls
// that are still running). [Runtime.Close] may come before the encoders are
// closed: the library stays loaded until its last user has gone.
//
// A proxy leaves the switching to [Library]: [Library.Prepare] loads what will be
// used, [Library.Retain] forgets what is not used any more, and whoever holds a
// forgotten encoder may go on with it. The files are in a [Store].
//
// # Batching
//
// Encode works in chunks of 1,024 rows; the remainder is padded with zero rows
// to the next power of two, so a session sees eleven shapes in all and its
// tensors are made once. A lane is one set of those tensors; as many lanes as
// processors can be busy at a time, further calls wait.
//
// # How to debug
//
// LoadEncoder says which check failed: [ErrModelMissing], [ErrModelHash],
// [ErrModelCorrupt], [ErrModelSignature], [ErrTestVector] or [*DeviceError]. After a test vector
// error on a new machine the file is sound but this processor computes other
// bits: retrain there, or keep the fleet on one processor family. The metadata
// in the file (`strings model.onnx | tail`) shows the vector as hexadecimal
// floating-point numbers. Errors never contain a value of a row.
package udf
