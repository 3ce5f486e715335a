// Package onnx writes ONNX model files: just the part of the format that
// Scrim's own graphs need.
//
// It exists because there is no ONNX writer for Go worth depending on, and
// because the bytes must be the same at every run: everything is written in the
// order in which it was added, and nothing carries a time or a host name.
//
// Life cycle: fill a [Graph], call [Graph.Model] once. [AppendMeta] adds
// metadata to a finished file.
//
// To debug a file, open it in netron.app, or run
// `protoc --decode=onnx.ModelProto onnx.proto < file`.
package onnx
