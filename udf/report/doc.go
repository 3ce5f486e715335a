// Package report measures what the codes of an encoder still give away of the features, and what they are good for. An
// encoder keeps the structure of its inputs: that is its use, and that is its leak. Nobody should have to guess how much.
//
// # What is measured
//
// On the sample of training rows that package train returns, of n rows in random order, z being a feature (missing values
// as the mean) less its mean, divided by its standard deviation and cut at ±10, as in the encoder:
//
//   - Loss after each epoch, and reconstruction error of each feature: the mean of (ẑ - z)² over the values that are there,
//     ẑ being what the trained decoder makes of the code. 0 is perfect, 1 no better than answering the mean. No linear
//     autoencoder gets their sum below the sum of the smallest eigenvalues of the correlation matrix, those that are left
//     when each latent dimension has taken the largest one (Baldi and Hornik, "Neural networks and principal component
//     analysis", Neural Networks 2, 1989; Eckart and Young, Psychometrika 1, 1936). Of a feature j it leaves then the sum
//     of λᵢvᵢⱼ² over the eigenvalues λᵢ that are left, vᵢⱼ being component j of the eigenvector of length 1.
//
//   - Leakage of each feature: how well an attacker who has pairs of rows and codes regains it from other codes. He has
//     the codes, each component standardised, of the first part of the sample, tunes on a second, and is judged by the
//     third, held out: R² = 1 - Σ(z - ẑ)² / Σ(z - z̄)² over the values that are there. He tries ridge regression,
//     w = (XᵀX/n + λI)⁻¹Xᵀz/n with λ from a grid (Hoerl and Kennard, "Ridge regression", Technometrics 12, 1970), and the
//     mean of the k nearest neighbours with k from a grid (Cover and Hart, IEEE Transactions on Information Theory 13,
//     1967; Stone, Annals of Statistics 5, 1977). The better of the two, cut at 0 and 1, is the leakage. It is a lower
//     bound: a better attacker, or one with more pairs, may regain more, single rows may be regained exactly where the
//     average is not, and nothing is said about an attacker who may choose values.
//
//   - Overlap: of the K = 10 nearest rows by features, how many are among the K nearest by code (unscaled, as whoever uses
//     codes sees them), the mean over held-out rows. This is Q_NX(K) of Lee and Verleysen, "Quality assessment of
//     dimensionality reduction: Rank-based criteria", Neurocomputing 72, 2009, with the neighbours taken from the first
//     part. Codes that have nothing to do with the rows get K/n.
//
//   - For a target: the accuracy of the majority of the k nearest neighbours if it is a class, the better R² of the two
//     methods above if it is a quantity, from codes and from features, on held-out rows.
//
// # Bounds
//
// At most 10,000 rows are used (package train draws no more), and fewer where rows are wide, so that the distances take at
// most 3e8 multiplications, some more with a target: 0.4 s for 16 features and 16 dimensions, however many rows there
// are. Codes of 1,024 dimensions take 2 to 3 s and 40 MB, for the ridge. With less than [MinRows] rows nothing can be said.
//
// # The same bits
//
// Everything runs in one goroutine in a fixed order, ties between neighbours go to the row that comes first, and products
// are rounded before they are summed. Package train draws the sample from the rows in canonical order. So a report is the
// same for the same rows and seed, in whatever order the rows come; only a target may differ where rows have equal
// features.
//
// # How to debug
//
// Leakage near 0 of a feature that is reconstructed well is a bug: the decoder is an attacker too.
package report
