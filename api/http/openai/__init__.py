"""OpenAI's routes over job types that declare `@job(openai=...)`."""
