"""Every family of networks, small."""

from lightning_seq.networks import GRU, LSTM, ElmanRNN, MinGRU, MinLSTM, Transformer

VOCAB_SIZE = 23

AWD = {
    "last_hidden_size": 12,
    "tie_weights": True,
    "input_dropout": 0.3,
    "hidden_dropout": 0.2,
    "output_dropout": 0.4,
    "embedding_dropout": 0.1,
    "variational_dropout": True,
    "weight_drop": 0.5,
    "activation_penalty": 2.0,
    "temporal_activation_penalty": 1.0,
}

FAMILIES = {
    "elman_tanh": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 2),
    "elman_relu": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 1, nonlinearity="relu"),
    "elman_orthogonal": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 2, recurrent_init="orthogonal"),
    "elman_identity": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 1, nonlinearity="relu", recurrent_init="identity"),
    "gru": lambda: GRU(VOCAB_SIZE, 12, 16, 2),
    "lstm": lambda: LSTM(VOCAB_SIZE, 12, 16, 2),
    "lstm_tied": lambda: LSTM(VOCAB_SIZE, 12, 16, 2, tie_weights=True),
    "elman_normed": lambda: ElmanRNN(VOCAB_SIZE, 12, 16, 2, layer_norm=True, learn_initial_state=True),
    "gru_learnt_start": lambda: GRU(
        VOCAB_SIZE, 12, 16, 2, learn_initial_state=True, variational_dropout=True
    ),
    "lstm_awd": lambda: LSTM(VOCAB_SIZE, 12, 16, 3, **AWD),
    "lstm_adaptive": lambda: LSTM(VOCAB_SIZE, 12, 16, 1, adaptive_cutoffs=[5, 11]),
    "lstm_smoothed": lambda: LSTM(VOCAB_SIZE, 12, 16, 1, label_smoothing=0.1, z_loss=1e-3),
    "min_gru": lambda: MinGRU(VOCAB_SIZE, 12, 16, 2),
    "min_lstm": lambda: MinLSTM(VOCAB_SIZE, 12, 16, 2),
    "transformer": lambda: Transformer(VOCAB_SIZE, 32, 2, 4, context_length=64),
    "transformer_untied": lambda: Transformer(VOCAB_SIZE, 16, 1, 1, context_length=64, tie_weights=False),
    "transformer_grouped": lambda: _transformer(num_key_value_heads=2, qk_norm=True, norm="layer"),
    "transformer_gpt2": lambda: _transformer(
        norm="layer", activation="gelu_tanh", positions="learned", bias=True, initialization="gpt2"
    ),
    "transformer_sinusoidal": lambda: _transformer(positions="sinusoidal", activation="gelu"),
    "transformer_no_positions": lambda: _transformer(positions="none", activation="relu_squared"),
    "transformer_window": lambda: _transformer(sliding_window=5),
    "transformer_attention_only": lambda: _transformer(feedforward_dim=0, tie_weights=False),
    "transformer_checkpointed": lambda: _transformer(activation_checkpointing=True),
}


def _transformer(**arguments):
    return Transformer(VOCAB_SIZE, 32, 2, 4, context_length=64, **arguments)
