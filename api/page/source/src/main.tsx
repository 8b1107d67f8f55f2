import { render } from 'preact'
import { App } from './app'
import './styles/base.css'
import './styles/shell.css'
import './styles/tables.css'
import './styles/job.css'

const root = document.getElementById('app') as HTMLElement
root.textContent = ''
render(<App />, root)
