"""OpenAI's API over the job types that are declared for it: chat, completions, embeddings, responses, tokens."""
