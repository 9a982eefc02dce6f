"""Every family of networks, small."""

from lightning_seq.networks import GRU, LSTM, ElmanRNN, Transformer

VOCAB_SIZE = 23

FAMILIES = {
    "elman_tanh": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 2),
    "elman_relu": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 1, nonlinearity="relu"),
    "elman_orthogonal": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 2, recurrent_init="orthogonal"),
    "elman_identity": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 1, nonlinearity="relu", recurrent_init="identity"),
    "gru": lambda: GRU(VOCAB_SIZE, 12, 16, 2),
    "lstm": lambda: LSTM(VOCAB_SIZE, 12, 16, 2),
    "lstm_tied": lambda: LSTM(VOCAB_SIZE, 12, 16, 2, tie_weights=True),
    "transformer": lambda: Transformer(VOCAB_SIZE, 32, 2, 4, context_length=64),
    "transformer_untied": lambda: Transformer(VOCAB_SIZE, 16, 1, 1, context_length=64, tie_weights=False),
}
